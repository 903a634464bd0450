"""The port of an engine: what turns token ids into token ids, and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nexus_jobs.errors import NexusError
from nexus_jobs.job import FinishReason, Message, SamplingParams


class Tokenizer(Protocol):
    """Turns text into token ids and back. Safe to call from several threads."""

    def render(self, messages: Sequence[Message]) -> str | None:
        """The chat as the model's template writes it, or None if the model has no template."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the ids, without special tokens."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One row for an engine: prompt token ids, and how to go on from them."""

    id: str
    prompt: Sequence[int]
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the model itself counts them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step added to one sequence; the last has a `finish_reason` or an `error`.

    The end-of-sequence token is not among `token_ids`.
    """

    sequence_id: str
    token_ids: Sequence[int]
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    """From an engine whose token ids are not the model's own, with the last progress."""
    error: NexusError | None = None
    """Why this row alone has failed."""

    @property
    def is_last(self) -> bool:
        return self.finish_reason is not None or self.error is not None


class Engine(Protocol):
    """Turns token ids into token ids, one step at a time. Used from one thread only.

    A sequence leaves by itself with its last Progress: at the end of sequence, when `max_tokens`
    or `max_sequence_length` is reached, or when it alone has failed. Stop strings are not the
    engine's business: the caller evicts the row.
    """

    name: str
    """What runs the model, for people: `onnx int8`."""
    reproducible: bool
    """Whether a row's tokens are the same alone and in any batch."""
    slots: int
    """The most sequences that may be in the batch at once."""
    max_sequence_length: int
    """Prompt and answer together, in tokens."""
    bounds_prefill: bool
    """The engine spreads long prompts over steps itself, so nobody else has to ration them."""
    tokenizer: Tokenizer
    device: str
    """What it computes on: cpu, cuda:N, or upstream."""

    @property
    def pid(self) -> int | None:
        """The process it runs in, if that is one of its own."""

    @property
    def spare_seconds(self) -> float:
        """How long it is busy for at least with a step that it has begun by itself. The next need
        not be asked for until then, and rows that come meanwhile can still join that one.
        """

    def admit(self, sequences: Sequence[TokenSequence]) -> None:
        """Let rows join; the caller never admits more than there are free slots.

        Raises:
            EngineError: none of them joined.
            ModelUnavailable: the engine has died and holds no row; another must be built.
        """

    def step(self) -> list[Progress]:
        """Advance every row by a token (an engine may also need a step to prefill a row).

        Raises:
            EngineError: the batch is lost; the engine holds no row any more and is usable.
            ModelUnavailable: the engine has died; another must be built.
        """

    def evict(self, sequence_id: str) -> None:
        """Drop a row at once and free its slot; an unknown id is no error."""

    def close(self) -> None:
        """Give the memory back."""
