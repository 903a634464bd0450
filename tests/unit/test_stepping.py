from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_jobs.adapters.engines.sampling import Floats, Ints
from nexus_jobs.adapters.engines.simulated import SimulatedTokenizer
from nexus_jobs.adapters.engines.stepping import SteppingEngine
from nexus_jobs.errors import EngineError
from nexus_jobs.job import FinishReason, SamplingParams
from nexus_jobs.ports import Progress, TokenSequence

VOCABULARY = 97
EOS = 96
SLOTS = 4
LONGEST = 64


class HashingBackend:
    """A model of a kind: its next token is a hash of all tokens that are cached in the slot."""

    def __init__(self, always: int | None = None) -> None:
        self.always = always
        self.cache = np.full((SLOTS, LONGEST), -1)
        self.broken = False
        self.rows_decoded: list[int] = []

    def prefill(self, first: int, tokens: Ints, start: int) -> None:
        if self.broken:
            raise RuntimeError("no memory")
        self.cache[first : first + len(tokens), start : start + tokens.shape[1]] = tokens

    def decode(self, tokens: Ints, lengths: Ints) -> Floats:
        if self.broken:
            raise RuntimeError("no device")
        self.rows_decoded.append(len(tokens))
        logits = np.zeros((len(tokens), VOCABULARY), np.float32)
        for slot, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            self.cache[slot, length] = token
            weights = np.arange(1, length + 2) ** 2
            digest = int((self.cache[slot, : length + 1] * weights).sum())
            logits[slot, digest % VOCABULARY if self.always is None else self.always] = 1
        return logits

    def move(self, source: int, target: int, length: int) -> None:
        self.cache[target] = -1
        self.cache[target, :length] = self.cache[source, :length]


def make(backend: HashingBackend | None = None) -> SteppingEngine:
    return SteppingEngine(
        backend or HashingBackend(),
        name="hashing",
        tokenizer=SimulatedTokenizer(),
        slots=SLOTS,
        max_sequence_length=LONGEST,
        eos=[EOS],
    )


def sequence(name: str, length: int = 5, **params: Any) -> TokenSequence:
    prompt = [(len(name) + position * 7) % 90 for position in range(length)]
    return TokenSequence(name, prompt, SamplingParams(**params))


def run(engine: SteppingEngine, *sequences: TokenSequence) -> dict[str, list[Progress]]:
    engine.admit(sequences)
    seen: dict[str, list[Progress]] = {sequence.id: [] for sequence in sequences}
    while step := engine.step():
        for progress in step:
            seen[progress.sequence_id].append(progress)
    return seen


def tokens(progress: Sequence[Progress]) -> list[int]:
    return [token for one in progress for token in one.token_ids]


def test_the_first_token_comes_with_the_first_step() -> None:
    engine = make()
    engine.admit([sequence("a"), sequence("b", 40)])
    assert {p.sequence_id for p in engine.step()} == {"a", "b"}


def test_a_row_ends_at_max_tokens() -> None:
    (progress,) = run(make(), sequence("a", max_tokens=7, ignore_eos=True)).values()
    assert len(tokens(progress)) == 7
    assert progress[-1].finish_reason is FinishReason.LENGTH


def test_a_row_ends_when_the_context_is_full() -> None:
    (progress,) = run(make(), sequence("a", 60, max_tokens=99, ignore_eos=True)).values()
    assert len(tokens(progress)) == LONGEST - 60
    assert progress[-1].finish_reason is FinishReason.LENGTH


def test_the_end_token_ends_a_row_and_is_not_part_of_the_answer() -> None:
    (progress,) = run(make(HashingBackend(always=EOS)), sequence("a")).values()
    assert progress == [Progress("a", (), FinishReason.STOP)]


def test_min_tokens_postpone_the_end() -> None:
    (progress,) = run(make(HashingBackend(always=EOS)), sequence("a", min_tokens=3)).values()
    assert len(tokens(progress)) == 3
    assert progress[-1].finish_reason is FinishReason.STOP


def test_an_ended_row_takes_part_in_no_further_pass() -> None:
    backend = HashingBackend()
    engine = make(backend)
    backend.rows_decoded.clear()
    run(engine, *(sequence(n, max_tokens=m, ignore_eos=True) for n, m in (("a", 1), ("b", 3))))
    assert backend.rows_decoded == [2, 1, 1]


def test_an_evicted_row_says_nothing_more_and_frees_its_slot() -> None:
    engine = make()
    engine.admit([sequence(name, max_tokens=50, ignore_eos=True) for name in "abcd"])
    engine.step()
    engine.evict("b")
    engine.admit([sequence("e", max_tokens=50, ignore_eos=True)])
    assert {p.sequence_id for p in engine.step()} == {"a", "c", "d", "e"}


def test_an_unknown_id_can_be_evicted() -> None:
    make().evict("nobody")


def test_after_a_failed_step_the_engine_is_empty_and_works_again() -> None:
    backend = HashingBackend()
    engine = make(backend)
    engine.admit([sequence("a"), sequence("b")])
    backend.broken = True
    with pytest.raises(EngineError, match="no device"):
        engine.step()
    backend.broken = False
    assert engine.step() == []
    assert tokens(run(engine, sequence("c"))["c"]) == tokens(run(make(), sequence("c"))["c"])


def test_after_a_failed_admission_nobody_has_joined_and_the_others_go_on() -> None:
    backend = HashingBackend()
    engine = make(backend)
    engine.admit([sequence("a", max_tokens=20, ignore_eos=True)])
    backend.broken = True
    with pytest.raises(EngineError, match="no memory"):
        engine.admit([sequence("b"), sequence("c")])
    backend.broken = False
    assert [p.sequence_id for p in engine.step()] == ["a"]


@pytest.mark.parametrize("length", [0, LONGEST])
def test_a_prompt_that_leaves_no_room_is_refused(length: int) -> None:
    with pytest.raises(EngineError, match="no room"):
        make().admit([sequence("a", length)])


@given(
    lengths=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20)), min_size=1, max_size=12),
    joins=st.lists(st.integers(0, SLOTS), min_size=1, max_size=40),
    evictions=st.sets(st.integers(0, 11), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_the_way_a_batch_fills_and_empties_changes_no_answer(
    lengths: list[tuple[int, int]], joins: list[int], evictions: set[int]
) -> None:
    waiting = [
        sequence(f"{index}", length, max_tokens=new, ignore_eos=index % 2 == 0)
        for index, (length, new) in enumerate(lengths)
    ]
    alone = {s.id: tokens(run(make(), s)[s.id]) for s in waiting}
    engine = make()
    answers: dict[str, list[int]] = {s.id: [] for s in waiting}
    running: set[str] = set()
    evicted: set[str] = set()
    for joining in [*joins, *[SLOTS] * 300]:
        batch = [waiting.pop() for _ in range(min(joining, SLOTS - len(running), len(waiting)))]
        engine.admit(batch)
        running |= {s.id for s in batch}
        for progress in engine.step():
            answers[progress.sequence_id] += progress.token_ids
            if progress.finish_reason is not None:
                running.remove(progress.sequence_id)
        for name in running & {str(index) for index in evictions}:
            engine.evict(name)
            evicted.add(name)
        running -= evicted
    assert not waiting
    assert not running
    for name, answer in answers.items():
        expected = alone[name]
        assert answer == (expected[: len(answer)] if name in evicted else expected)
