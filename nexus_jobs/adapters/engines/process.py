"""Runs an engine in a process of its own.

For a library that holds Python's global lock while it computes: in the worker's own process its
steps would stop the threads that claim, commit and keep the leases.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Final

from nexus_jobs.engine import Engine, Progress, Tokenizer, TokenSequence
from nexus_jobs.errors import EngineError, ModelUnavailable, NexusError
from nexus_jobs.retry import described

STOP_SECONDS: Final = 10.0
AHEAD: Final = 2
"""Steps that are asked for at a time, so that the next one runs while the tokens of the last are
handled on this side.
"""
LAST_STEPS: Final = 16
SURE: Final = 0.5
"""A step is trusted to take so much of the time that the shortest of the last ones took. Those in
which prompts join take longer than others.
"""
_Call = tuple[str, tuple[Any, ...]]
_FACTS: Final = (
    "name",
    "reproducible",
    "slots",
    "max_sequence_length",
    "bounds_prefill",
    "device",
)


class ProcessEngine:
    """The engine that `build`, which must be picklable, makes in the other process.

    Text is tokenised on this side. Calls go over a pipe and only steps are waited for, so
    whatever goes wrong is told by the next step. When the process dies, its rows fail; the next
    ones are refused.

    Raises:
        ModelUnavailable: as `build` does, or the process dies of it.
    """

    name: str
    reproducible: bool
    slots: int
    max_sequence_length: int
    bounds_prefill: bool
    device: str

    def __init__(self, build: Callable[[], Engine], tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._build = build
        self._start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def spare_seconds(self) -> float:
        if not (self._asked and self._rows):
            return 0.0
        return max(0.0, self._began_at + SURE * min(self._took, default=0.0) - time.monotonic())

    def admit(self, sequences: Sequence[TokenSequence]) -> None:
        """Let rows join; they miss the steps that are asked for already."""
        if self._pipe.closed:
            raise ModelUnavailable(f"{self.name}: its process has died")
        self._rows.update(sequence.id for sequence in sequences)
        self._call("admit", sequences)

    def step(self) -> list[Progress]:
        if not self._rows:
            return []
        while self._asked < AHEAD:
            self._call("step")
            self._asked += 1
        try:
            progress = self._next_progress()
        except (EOFError, OSError) as error:
            self.close()
            self._rows.clear()
            raise EngineError(f"{self.name}: its process died") from error
        except EngineError:
            for sequence_id in self._rows.copy():
                self.evict(sequence_id)
            raise
        # a row may have been evicted after the step was asked for
        progress = [row for row in progress if row.sequence_id in self._rows]
        self._rows.difference_update(row.sequence_id for row in progress if row.is_last)
        return progress

    def evict(self, sequence_id: str) -> None:
        self._rows.discard(sequence_id)
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
        self._rows: set[str] = set()
        self._asked = 0
        """Steps that the other side has not answered yet."""
        self._began_at = 0.0
        """When the other side was ready for the oldest of them; one clock serves both sides."""
        self._took: deque[float] = deque(maxlen=LAST_STEPS)
        """Seconds of the last steps."""
        try:
            facts = self._pipe.recv()
        except EOFError as error:
            raise ModelUnavailable("the engine's process died while it loaded the model") from error
        if isinstance(facts, NexusError):
            raise facts
        for fact, value in zip(_FACTS, facts, strict=True):
            setattr(self, fact, value)

    def _call(self, method: str, *arguments: object) -> None:
        with suppress(OSError):  # it died; the next step finds out
            self._pipe.send((method, arguments))

    def _next_progress(self) -> list[Progress]:
        method, answer, began_at, ended_at = self._pipe.recv()
        if method == "step":
            self._asked -= 1
            self._began_at = ended_at
            if answer:  # a step without rows takes no time
                self._took.append(ended_at - began_at)
        if isinstance(answer, EngineError):
            raise answer
        progress: list[Progress] = answer
        return progress


def _serve(pipe: Connection, build: Callable[[], Engine]) -> None:
    """Do what is called for until the other side is gone, whether it closed the pipe or died.

    Only steps and failures are answered.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; ours is to drain
    try:
        engine = build()
    except NexusError as error:
        pipe.send(error)
        return
    pipe.send([getattr(engine, fact) for fact in _FACTS])
    calls: SimpleQueue[_Call | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, calls), daemon=True).start()
    with suppress(OSError):
        for method, arguments in iter(calls.get, None):
            began_at = time.monotonic()
            try:
                answer = getattr(engine, method)(*arguments)
            except EngineError as error:
                # a traceback does not travel; what it says does
                error.add_note(described(error).trace or "")
                answer = error
            if answer is not None:
                pipe.send((method, answer, began_at, time.monotonic()))


def _listen(pipe: Connection, calls: SimpleQueue[_Call | None]) -> None:
    """Take every call in as it comes, None when the other side is gone.

    While that sends prompts it reads no answer, so an answer that does not fit into the pipe must
    not keep this side from reading.
    """
    try:
        with suppress(EOFError, OSError):
            while True:
                calls.put(pipe.recv())
    finally:
        calls.put(None)
