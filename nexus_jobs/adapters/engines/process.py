"""Runs an engine in a process of its own.

For a library that holds Python's global lock while it computes: in the worker's own process its
steps would stop the threads that claim, commit and keep the leases.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Final

from nexus_jobs.errors import EngineError, ModelUnavailable, NexusError
from nexus_jobs.ports import Engine, Progress, Tokenizer, TokenSequence

STOP_SECONDS: Final = 10.0
_FACTS: Final = ("name", "reproducible", "slots", "max_sequence_length", "bounds_prefill")


class ProcessEngine:
    """The engine that `build`, which must be picklable, makes in the other process.

    Text is tokenised on this side. When the process dies, its rows fail and another is started.

    Raises:
        ModelUnavailable: as `build` does, or the process dies of it.
    """

    name: str
    reproducible: bool
    slots: int
    max_sequence_length: int
    bounds_prefill: bool

    def __init__(self, build: Callable[[], Engine], tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._build = build
        self._rows: set[str] = set()
        self._lost = False
        """Rows died with a process, and no step has told so yet."""
        self._start()

    def admit(self, sequences: Sequence[TokenSequence]) -> None:
        self._call("admit", sequences)
        self._rows.update(sequence.id for sequence in sequences)

    def step(self) -> list[Progress]:
        try:
            if self._lost:
                raise EngineError(f"{self.name}: its process died")
            progress: list[Progress] = self._call("step")
        except EngineError:
            for sequence_id in self._rows.copy():
                self.evict(sequence_id)
            self._lost = False
            raise
        self._rows.difference_update(row.sequence_id for row in progress if row.finish_reason)
        return progress

    def evict(self, sequence_id: str) -> None:
        self._rows.discard(sequence_id)
        with suppress(EngineError):  # a process that died has dropped it as well
            self._call("evict", sequence_id)

    def close(self) -> None:
        self._pipe.close()
        self._process.join(STOP_SECONDS)
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._build), daemon=True)
        self._process.start()
        theirs.close()
        try:
            facts = self._answer()
        except EOFError as error:
            raise ModelUnavailable("the engine's process died while it loaded the model") from error
        for fact, value in zip(_FACTS, facts, strict=True):
            setattr(self, fact, value)

    def _call(self, method: str, *arguments: object) -> Any:
        try:
            self._pipe.send((method, arguments))
            return self._answer()
        except (EOFError, OSError) as error:
            self._lost = bool(self._rows)
            self._rows.clear()
            self.close()
            self._start()
            raise EngineError(f"{self.name}: its process died") from error

    def _answer(self) -> Any:
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(pipe: Connection, build: Callable[[], Engine]) -> None:
    """Answer calls until the other side is gone, whether it closed the pipe or was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; ours is to drain
    try:
        engine = build()
    except NexusError as error:
        pipe.send(error)
        return
    pipe.send([getattr(engine, fact) for fact in _FACTS])
    with suppress(EOFError, OSError):
        while True:
            method, arguments = pipe.recv()
            try:
                answer = getattr(engine, method)(*arguments)
            except EngineError as error:
                answer = error
            pipe.send(answer)
