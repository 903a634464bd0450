"""The continuous batch of the onnx and the torch engine: rows join and leave at any step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from nexus_jobs.adapters.engines.beginnings import CHUNK, Beginnings
from nexus_jobs.adapters.engines.failures import engine_error
from nexus_jobs.adapters.engines.prefill import Prefill, Prompt
from nexus_jobs.adapters.engines.sampling import Floats, Ints, Sampler, choose
from nexus_jobs.engine import Progress, Tokenizer, TokenSequence
from nexus_jobs.errors import EngineError
from nexus_jobs.job import FinishReason

SPARE_SLOTS: Final = 4
"""Slots that a backend has behind those of the batch, for beginnings that prompts share."""


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

    bounds_prefill = True
    device = "cpu"
    pid = None
    spare_seconds = 0.0

    def __init__(
        self,
        backend: Backend,
        *,
        name: str,
        tokenizer: Tokenizer,
        slots: int,
        max_sequence_length: int,
        max_batch_tokens: int,
        eos: Iterable[int],
    ) -> None:
        """`backend` has `SPARE_SLOTS` more than `slots`; a step prefills `max_batch_tokens`."""
        self.name = name
        self.tokenizer = tokenizer
        self.slots = slots
        self.max_sequence_length = max_sequence_length
        self._eos = frozenset(eos)
        self._backend = backend
        self._prefill = Prefill(
            backend,
            Beginnings(range(slots, slots + SPARE_SLOTS)),
            budget=max_batch_tokens,
            longest=max_sequence_length,
        )
        self._joining: dict[str, _Row] = {}
        self._rows: list[_Row] = []
        self.reproducible = self._rows_are_independent()

    def admit(self, sequences: Sequence[TokenSequence]) -> None:
        """Take new rows in; the steps to come prefill them."""
        for sequence in sequences:
            length = len(sequence.prompt)
            if not 1 <= length < self.max_sequence_length:
                raise EngineError(f"a prompt of {length} tokens leaves no room for an answer")
        self._joining.update((sequence.id, self._row(sequence)) for sequence in sequences)
        self._prefill.add([Prompt(sequence.id, sequence.prompt[:-1]) for sequence in sequences])

    def step(self) -> list[Progress]:
        """Prefill some, then run one forward pass and choose a token for every row that is ready.

        Empty if no row is ready yet.
        """
        try:
            self._rows += [self._joining.pop(id) for id in self._prefilled()]
            tokens = self._next_tokens() if self._rows else []
        except Exception as error:  # a library may raise anything
            self._clear()
            raise engine_error(self.name, error) from error
        progress = [self._advance(*pair) for pair in zip(self._rows, tokens, strict=True)]
        for index in reversed(range(len(progress))):
            if progress[index].finish_reason is not None:
                self._leave(index)
        return progress

    def evict(self, sequence_id: str) -> None:
        if self._joining.pop(sequence_id, None):
            self._prefill.drop(sequence_id, len(self._rows))
        for index, row in enumerate(self._rows):
            if row.id == sequence_id:
                self._leave(index)
                return

    def close(self) -> None:
        self._clear()
        del self._backend, self._prefill

    def _clear(self) -> None:
        self._rows.clear()
        self._joining.clear()
        self._prefill.clear()

    def _row(self, sequence: TokenSequence) -> _Row:
        sampler = Sampler(sequence.params, sequence.prompt, self._eos)
        return _Row(sequence.id, sampler, len(sequence.prompt) - 1, sequence.prompt[-1])

    def _prefilled(self) -> list[str]:
        return [prompt.id for prompt in self._prefill.advance(len(self._rows))]

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
        """Take a row out; the last one moves into its slot, and what is behind it closes up."""
        last = self._rows.pop()
        if index < len(self._rows):
            self._backend.move(len(self._rows), index, last.cached)
            self._rows[index] = last
        self._prefill.shift(len(self._rows) + 1)

    def _rows_are_independent(self) -> bool:
        """Whether logits here are the same, bit for bit, alone and in company.

        Math libraries choose a kernel by the shape of a batch, and not all of their choices round
        alike; what they do on this processor shows best by trying.
        """
        tried = (2, 3, 14, 15, 30, 31, 46, 47, CHUNK + 2, CHUNK + 20)
        lengths = [length for length in tried if length < self.max_sequence_length][-self.slots :]
        prompts = [[(7 * n + length) % 50 for n in range(length)] for length in lengths]
        together = self._first_logits(prompts)
        alone = [self._first_logits([prompt]) for prompt in prompts]
        return np.array_equal(together, np.concatenate(alone))

    def _first_logits(self, prompts: Sequence[Sequence[int]]) -> Floats:
        """Of prompts in the order of their lengths, which is that in which they become whole."""
        self._prefill.add([Prompt(str(len(prompt)), prompt[:-1]) for prompt in prompts])
        whole = 0
        while whole < len(prompts):
            whole += len(self._prefill.advance(whole))
        last = np.array([prompt[-1] for prompt in prompts])
        return self._backend.decode(last, np.array([len(prompt) - 1 for prompt in prompts])).copy()
