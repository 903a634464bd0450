"""Which engine, precision and number of slots run a model fastest: the load and the choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Final

from nexus_jobs.engine import Engine, Tokenizer, TokenSequence
from nexus_jobs.job import Message, SamplingParams
from nexus_jobs.models import EngineType, Precision
from nexus_jobs.ports import Clock

SUBJECTS: Final = (
    "the tides", "an old bicycle", "how bread rises", "a quiet library", "volcanoes",
    "the first day at a new school", "why leaves change colour", "a lighthouse keeper",
)  # fmt: skip
TASKS: Final = (
    "Write one sentence about {}.",
    "Explain {} to a child of six, in plain words and with one example from everyday life.",
    "List three facts about {}. Number them, and keep each of them under twenty words. Then say "
    "which one surprises people most and why, as if you were talking to a friend over dinner.",
)
_NOISE: Final = 0.03
"""Differences in speed smaller than this share say nothing."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a model; a precision of None is that of the pulled file."""

    type: EngineType
    precision: Precision | None = None

    def __str__(self) -> str:
        return f"{self.type} {self.precision or ''}".strip()


VARIANTS: Final = (
    Variant("openvino"),
    Variant("onnx", "int8"),
    Variant("onnx", "fp32"),
    Variant("huggingface", "bf16"),
    Variant("huggingface", "fp32"),
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """How fast a variant is with so many rows in its batch."""

    variant: Variant
    slots: int
    tokens_per_second: float

    @property
    def ms_per_token(self) -> float:
        """How long a row waits for its next token."""
        return 1000 * self.slots / self.tokens_per_second


def best(measurements: Sequence[Measurement]) -> Measurement:
    """The fastest; among those as good as that, the one with the fewest slots.

    Fewer slots take less memory, and each row gets its tokens sooner.
    """
    most = max(measured.tokens_per_second for measured in measurements)
    near = [m for m in measurements if m.tokens_per_second >= (1 - _NOISE) * most]
    return min(near, key=lambda measured: (measured.slots, -measured.tokens_per_second))


def mixed_sequences(tokenizer: Tokenizer, count: int) -> list[TokenSequence]:
    """Prompts of about 25 to 75 tokens with exactly 8 to 128 new tokens each."""
    texts = (task.format(subject) for subject in cycle(SUBJECTS) for task in TASKS)
    lengths = (8 + (37 * index) % 121 for index in range(count))
    return [
        TokenSequence(
            id=str(index),
            prompt=_encoded(tokenizer, text),
            params=SamplingParams(max_tokens=length, ignore_eos=True),
        )
        for index, (text, length) in enumerate(zip(islice(texts, count), lengths, strict=True))
    ]


def endless_load(tokenizer: Tokenizer, slots: int) -> Iterator[TokenSequence]:
    """Mixed sequences for ever; no two loads share a name.

    The first ones are cut short to different shares, so that a batch of `slots` rows looks at once
    like one that has run for a while, in which rows end all the time.
    """
    for index, sequence in enumerate(cycle(mixed_sequences(tokenizer, 121))):
        length = sequence.params.max_tokens
        if index < slots:
            length = 1 + length * index // slots
        params = replace(sequence.params, max_tokens=length)
        yield replace(sequence, id=f"{slots}/{index}", params=params)


def throughput(
    engine: Engine, load: Iterator[TokenSequence], *, slots: int, seconds: float, clock: Clock
) -> float:
    """Tokens per second with `slots` rows in the batch, measured from when it is full."""
    batch = _FullBatch(engine, load, slots)
    batch.fill()
    tokens, started = 0, clock()
    while (elapsed := clock() - started) < seconds or not tokens:
        tokens += batch.step()
    batch.clear()
    return tokens / elapsed


class _FullBatch:
    """Rows of a load on an engine; for each that ends the next one joins."""

    def __init__(self, engine: Engine, load: Iterator[TokenSequence], slots: int) -> None:
        self._engine = engine
        self._load = load
        self._slots = slots
        self._running: set[str] = set()
        self._silent: set[str] = set()

    def fill(self) -> None:
        """Go on until each of the first rows has brought a token."""
        self._join()
        first = set(self._running)
        while first & self._silent:
            self.step()

    def step(self) -> int:
        """How many tokens one step brings."""
        self._join()
        tokens = 0
        for progress in self._engine.step():
            tokens += len(progress.token_ids)
            self._silent.discard(progress.sequence_id)
            if progress.finish_reason is not None:
                self._running.discard(progress.sequence_id)
        return tokens

    def clear(self) -> None:
        """Evict all rows, and run a last one: some libraries let go of rows only when they step."""
        for sequence_id in self._running:
            self._engine.evict(sequence_id)
        last = replace(next(self._load), params=SamplingParams(max_tokens=1))
        self._engine.admit([last])
        ended = False
        while not ended:
            ended = any(progress.finish_reason for progress in self._engine.step())

    def _join(self) -> None:
        joining = list(islice(self._load, self._slots - len(self._running)))
        if joining:
            self._engine.admit(joining)
            names = {sequence.id for sequence in joining}
            self._running |= names
            self._silent |= names


def _encoded(tokenizer: Tokenizer, text: str) -> Sequence[int]:
    rendered = tokenizer.render([Message("user", text)])
    if rendered is None:
        return tokenizer.encode(text)
    return tokenizer.encode(rendered, add_special_tokens=False)
