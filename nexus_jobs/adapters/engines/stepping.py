"""The continuous batch of the onnx and the torch engine: rows join and leave at any step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Protocol

import numpy as np

from nexus_jobs.adapters.engines.sampling import Floats, Ints, Sampler, choose
from nexus_jobs.errors import EngineError
from nexus_jobs.job import FinishReason
from nexus_jobs.ports import Progress, Tokenizer, TokenSequence

_BUCKET: Final = 16
"""Prompts are padded to a multiple of this; those of one padded length share a forward pass."""


class Backend(Protocol):
    """The forward passes of a model over a cache of slots; slots 0 to n - 1 hold the batch."""

    def prefill(self, first: int, tokens: Ints, start: int) -> None:
        """Cache `tokens` [rows, length], padded at the end, at the positions from `start` on.

        The slots are those from `first` on; they hold what lies before `start` already.
        """

    def decode(self, tokens: Ints, lengths: Ints) -> Floats:
        """Cache one more token in each of the first slots; returns logits [rows, vocabulary].

        `lengths` says how many tokens each slot holds before. The caller may overwrite the logits.
        """

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot to another, whose own are lost."""


@dataclass(slots=True)
class _Row:
    """One sequence of the batch: `cached` tokens are in its slot, `pending` goes in next."""

    id: str
    sampler: Sampler
    cached: int
    pending: int


class SteppingEngine:
    """An engine over a `Backend`. The batch is dense: row i of the list lives in slot i.

    A prefill covers all of a prompt but its last token, which joins the next step of the batch as
    its first pending one. So every logit comes from the same kind of forward pass.
    """

    bounds_prefill = False

    def __init__(
        self,
        backend: Backend,
        *,
        name: str,
        tokenizer: Tokenizer,
        slots: int,
        max_sequence_length: int,
        eos: Iterable[int],
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.slots = slots
        self.max_sequence_length = max_sequence_length
        self._eos = frozenset(eos)
        self._backend = backend
        self._rows: list[_Row] = []
        self.reproducible = self._rows_are_independent()

    def admit(self, sequences: Sequence[TokenSequence]) -> None:
        """Prefill new rows; they bring their first token at the next step."""
        by_length = sorted(sequences, key=lambda sequence: len(sequence.prompt))
        try:
            self._prefill([sequence.prompt for sequence in by_length])
        except Exception as error:  # a library may raise anything; the running rows are unharmed
            raise EngineError(f"{self.name}: prefill: {error}") from error
        self._rows += [self._row(sequence) for sequence in by_length]

    def step(self) -> list[Progress]:
        """Run one forward pass and choose a token for every row."""
        if not self._rows:
            return []
        try:
            tokens = self._next_tokens()
        except Exception as error:  # a library may raise anything
            self._rows.clear()
            raise EngineError(f"{self.name}: step: {error}") from error
        progress = [self._advance(*pair) for pair in zip(self._rows, tokens, strict=True)]
        for index in reversed(range(len(progress))):
            if progress[index].finish_reason is not None:
                self._leave(index)
        return progress

    def evict(self, sequence_id: str) -> None:
        for index, row in enumerate(self._rows):
            if row.id == sequence_id:
                self._leave(index)
                return

    def close(self) -> None:
        self._rows.clear()
        del self._backend

    def _row(self, sequence: TokenSequence) -> _Row:
        sampler = Sampler(sequence.params, sequence.prompt, self._eos)
        return _Row(sequence.id, sampler, len(sequence.prompt) - 1, sequence.prompt[-1])

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        """Fill the slots behind the batch; `prompts` are sorted by length."""
        first = len(self._rows)
        for length, group in groupby(prompts, self._padded_length):
            bucket = list(group)
            if length:
                tokens = np.zeros((len(bucket), length), np.int64)
                for row, prompt in zip(tokens, bucket, strict=True):
                    row[: len(prompt) - 1] = prompt[:-1]
                self._backend.prefill(first, tokens, 0)
            first += len(bucket)

    def _padded_length(self, prompt: Sequence[int]) -> int:
        """Of a prompt without its last token; nobody else's prompt has a say in it."""
        if not 1 <= len(prompt) < self.max_sequence_length:
            raise ValueError(f"a prompt of {len(prompt)} tokens leaves no room for an answer")
        return min(-(-(len(prompt) - 1) // _BUCKET) * _BUCKET, self.max_sequence_length)

    def _next_tokens(self) -> list[int]:
        pending = np.array([row.pending for row in self._rows])
        cached = np.array([row.cached for row in self._rows])
        logits = self._backend.decode(pending, cached)
        return choose(logits, [row.sampler for row in self._rows])

    def _advance(self, row: _Row, token: int) -> Progress:
        if token in self._eos:
            return Progress(row.id, (), FinishReason.STOP)
        row.cached += 1
        row.pending = token
        row.sampler.accept(token)
        full = (
            row.sampler.chosen >= row.sampler.params.max_tokens
            or row.cached + 1 >= self.max_sequence_length
        )
        return Progress(row.id, (token,), FinishReason.LENGTH if full else None)

    def _leave(self, index: int) -> None:
        """Take a row out; the last one moves into its slot."""
        last = self._rows.pop()
        if index < len(self._rows):
            self._backend.move(len(self._rows), index, last.cached)
            self._rows[index] = last

    def _rows_are_independent(self) -> bool:
        """Whether logits here are the same, bit for bit, alone and in company.

        Math libraries choose a kernel by the shape of a batch, and not all of their choices round
        alike; what they do on this processor shows best by trying.
        """
        lengths = [n for n in (2, 3, 14, 15, 30, 31, 46, 47) if n < self.max_sequence_length]
        prompts = [list(range(length)) for length in lengths[: self.slots]]
        together = self._first_logits(prompts)
        alone = [self._first_logits([prompt]) for prompt in prompts]
        return np.array_equal(together, np.concatenate(alone))

    def _first_logits(self, prompts: Sequence[Sequence[int]]) -> Floats:
        self._prefill(prompts)
        last = np.array([prompt[-1] for prompt in prompts])
        return self._backend.decode(last, np.array([len(prompt) - 1 for prompt in prompts])).copy()
