"""An engine without weights: takes the time it is told to and answers with the prompt's words."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice

from nexus_jobs.adapters.engines.words import WordTokenizer, token_id, word
from nexus_jobs.engine import Progress, Tokenizer, TokenSequence
from nexus_jobs.errors import EngineError, OutOfMemory
from nexus_jobs.job import FinishReason
from nexus_jobs.models import SimulatedTimes


@dataclass(slots=True)
class _Row:
    tokens: Iterator[int]
    left: int
    """Tokens until the row ends, for `reason`."""
    reason: FinishReason
    words: frozenset[str]


class SimulatedEngine:
    """Answers with the prompt's words, once; `min_tokens` and `ignore_eos` make it go on."""

    name = "simulated"
    reproducible = True
    bounds_prefill = False
    device = "cpu"
    pid = None
    spare_seconds = 0.0

    def __init__(
        self,
        times: SimulatedTimes,
        slots: int,
        max_sequence_length: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.slots = slots
        self.max_sequence_length = max_sequence_length
        self.tokenizer: Tokenizer = WordTokenizer()
        self._times = times
        self._faulty = bool(times.poison or times.deadly)
        self._sleep = sleep
        self._rows: dict[str, _Row] = {}

    def admit(self, sequences: Sequence[TokenSequence]) -> None:
        self._take(self._times.prefill_ms * sum(len(row.prompt) for row in sequences))
        self._rows.update({sequence.id: self._row(sequence) for sequence in sequences})

    def step(self) -> list[Progress]:
        rows = self._rows
        self._go_wrong()
        self._take(self._times.step_ms + self._times.step_ms_per_row * len(rows))
        return [self._advance(sequence_id, rows[sequence_id]) for sequence_id in list(rows)]

    def evict(self, sequence_id: str) -> None:
        self._rows.pop(sequence_id, None)

    def close(self) -> None:
        self._rows.clear()

    def _go_wrong(self) -> None:
        """Fail in the ways that the settings ask for."""
        rows, at_most = self._rows.values(), self._times.memory_rows
        if self._holds(self._times.deadly):
            os._exit(1)
        if at_most is not None and len(rows) > at_most:
            self._rows.clear()
            raise OutOfMemory(f"simulated: no memory for more than {at_most} rows")
        if self._holds(self._times.poison):
            self._rows.clear()
            raise EngineError("simulated: a prompt is poison")

    def _holds(self, word: str | None) -> bool:
        """Whether the prompt of a row has this word."""
        return word is not None and any(word in row.words for row in self._rows.values())

    def _take(self, milliseconds: float) -> None:
        if milliseconds:
            self._sleep(milliseconds / 1000)

    def _row(self, sequence: TokenSequence) -> _Row:
        params, prompt = sequence.params, sequence.prompt
        limit = min(params.max_tokens, self.max_sequence_length - len(prompt))
        natural = max(len(prompt), params.min_tokens)
        words = frozenset(word(token).strip() for token in prompt) if self._faulty else frozenset()
        if natural < limit and not params.ignore_eos:
            return _Row(_repeated(prompt), natural, FinishReason.STOP, words)
        return _Row(_repeated(prompt), limit, FinishReason.LENGTH, words)

    def _advance(self, sequence_id: str, row: _Row) -> Progress:
        row.left -= 1
        if row.left > 0:
            return Progress(sequence_id, list(islice(row.tokens, 1)))
        del self._rows[sequence_id]
        return Progress(sequence_id, list(islice(row.tokens, 1)), row.reason)


def _repeated(prompt: Sequence[int]) -> Iterator[int]:
    """The prompt's words over and over, with a blank where it begins anew."""
    if not prompt:
        return iter(())
    first = word(prompt[0])
    again = first if first[0].isspace() else f" {first}"
    return chain(prompt, cycle([token_id(again), *prompt[1:]]))
