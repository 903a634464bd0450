"""An engine without weights: it takes the time it is told to, and answers with the prompt's words.

A token is a word with the blanks before it, and its id is the UTF-8 of that word read as a number,
so that ids need no table.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from typing import Final

from nexus_jobs.engine import Progress, Tokenizer, TokenSequence
from nexus_jobs.errors import EngineError, OutOfMemory
from nexus_jobs.job import FinishReason, Message
from nexus_jobs.models import SimulatedTimes

_WORD: Final = re.compile(r"\s*\S+|\s+")
_UTF8: Final = ("utf-8", "surrogatepass")


class SimulatedTokenizer:
    """Every text round-trips exactly. Holds no state."""

    def render(self, messages: Sequence[Message]) -> str | None:
        """The last turn alone, so that the answer is made of its words."""
        return messages[-1].content

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:  # noqa: ARG002
        return [_token_id(word) for word in _WORD.findall(text)]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(_word, token_ids))


def _token_id(word: str) -> int:
    """The byte 1 in front keeps zero bytes at the beginning of a word."""
    return int.from_bytes(b"\1" + word.encode(*_UTF8), "big")


def _word(token_id: int) -> str:
    return token_id.to_bytes((token_id.bit_length() + 7) // 8, "big")[1:].decode(*_UTF8)


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

    def __init__(
        self,
        times: SimulatedTimes,
        slots: int,
        max_sequence_length: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.slots = slots
        self.max_sequence_length = max_sequence_length
        self.tokenizer: Tokenizer = SimulatedTokenizer()
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
        words = frozenset(_word(token).strip() for token in prompt) if self._faulty else frozenset()
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
    first = _word(prompt[0])
    again = first if first[0].isspace() else f" {first}"
    return chain(prompt, cycle([_token_id(again), *prompt[1:]]))
