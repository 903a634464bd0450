from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_jobs.adapters.engines.sampling import Floats, Ints
from nexus_jobs.adapters.engines.stepping import SPARE_SLOTS, SteppingEngine
from nexus_jobs.adapters.engines.words import WordTokenizer
from nexus_jobs.engine import Progress, TokenSequence
from nexus_jobs.errors import EngineError
from nexus_jobs.job import FinishReason, SamplingParams

VOCABULARY = 97
EOS = 96
SLOTS = 4
LONGEST = 500
BUDGET = 200


class HashingBackend:
    """A model of a kind: its next token is a hash of all tokens that are cached in the slot."""

    def __init__(self, always: int | None = None) -> None:
        self.always = always
        self.cache = np.full((SLOTS + SPARE_SLOTS, LONGEST), -1)
        self.broken = False
        self.rows_decoded: list[int] = []
        self.prefilled: list[tuple[int, int]] = []

    def prefill(self, first: int, tokens: Ints, start: int) -> None:
        if self.broken:
            raise RuntimeError("no memory")
        assert first + len(tokens) <= SLOTS
        self.prefilled.append((len(tokens), tokens.shape[1]))
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
        tokenizer=WordTokenizer(),
        slots=SLOTS,
        max_sequence_length=LONGEST,
        max_batch_tokens=BUDGET,
        eos=[EOS],
    )


def sequence(name: str, length: int = 5, **params: Any) -> TokenSequence:
    prompt = [(len(name) + position * 7) % 90 for position in range(length)]
    return TokenSequence(name, prompt, SamplingParams(**params))


def shared(name: str) -> list[int]:
    """A prompt of two whole chunks that is the same for all, and a few tokens of its own."""
    return [position % 89 for position in range(256)] + [ord(name)] * 9


def run(engine: SteppingEngine, *sequences: TokenSequence) -> dict[str, list[Progress]]:
    engine.admit(sequences)
    seen: dict[str, list[Progress]] = {sequence.id: [] for sequence in sequences}
    running = set(seen)
    while running:
        for progress in engine.step():
            seen[progress.sequence_id].append(progress)
            if progress.finish_reason is not None:
                running.remove(progress.sequence_id)
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
    (progress,) = run(make(), sequence("a", LONGEST - 4, max_tokens=99, ignore_eos=True)).values()
    assert len(tokens(progress)) == 4
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
    engine.admit([sequence("a", ignore_eos=True), sequence("b")])
    engine.step()
    backend.broken = True
    with pytest.raises(EngineError, match="no device"):
        engine.step()
    backend.broken = False
    assert engine.step() == []
    assert tokens(run(engine, sequence("c"))["c"]) == tokens(run(make(), sequence("c"))["c"])


def test_after_a_failed_prefill_the_engine_is_empty_and_works_again() -> None:
    backend = HashingBackend()
    engine = make(backend)
    engine.admit([sequence("a"), sequence("b", 300)])
    backend.broken = True
    with pytest.raises(EngineError, match="no memory"):
        engine.step()
    backend.broken = False
    assert engine.step() == []
    assert tokens(run(engine, sequence("c"))["c"]) == tokens(run(make(), sequence("c"))["c"])


def test_no_beginning_is_copied_after_a_failure_that_may_have_lost_it() -> None:
    backend = HashingBackend()
    engine = make(backend)
    run(engine, *(TokenSequence(name, shared(name), SamplingParams()) for name in "ab"))
    engine.admit([sequence("c")])
    backend.broken = True
    with pytest.raises(EngineError, match="no memory"):
        engine.step()
    backend.broken = False
    backend.cache[:] = -1
    later = run(engine, TokenSequence("d", shared("d"), SamplingParams()))
    alone = run(make(), TokenSequence("d", shared("d"), SamplingParams()))
    assert later == alone


def test_a_refused_sequence_leaves_the_others_of_its_group_out_too() -> None:
    engine = make()
    with pytest.raises(EngineError, match="no room"):
        engine.admit([sequence("a"), sequence("b", LONGEST)])
    assert engine.step() == []


def test_no_step_prefills_more_than_the_budget() -> None:
    backend = HashingBackend()
    engine = make(backend)
    engine.admit(
        [sequence(name, length) for name, length in zip("abcd", (490, 100, 60, 2), strict=True)]
    )
    done: set[str] = set()
    while len(done) < 4:
        backend.prefilled.clear()
        done |= {p.sequence_id for p in engine.step() if p.finish_reason is not None}
        assert sum(rows * length for rows, length in backend.prefilled) <= BUDGET


def test_rows_go_on_while_a_long_prompt_is_prefilled() -> None:
    engine = make()
    engine.admit([sequence("a", max_tokens=50, ignore_eos=True)])
    engine.step()
    engine.admit([sequence("b", 450)])
    heard = [{p.sequence_id for p in engine.step()} for _ in range(4)]
    assert heard == [{"a"}, {"a"}, {"a"}, {"a", "b"}]


def test_prompts_of_like_length_share_a_pass() -> None:
    backend = HashingBackend()
    engine = make(backend)
    backend.prefilled.clear()
    engine.admit([sequence(name, n) for name, n in (("a", 20), ("bb", 40), ("ccc", 22), ("d", 45))])
    engine.step()
    assert sorted(backend.prefilled) == [(2, 32), (2, 48)]


def test_a_beginning_that_prompts_share_is_prefilled_once() -> None:
    backend = HashingBackend()
    engine = make(backend)
    backend.prefilled.clear()
    answers = run(engine, *(TokenSequence(s, shared(s), SamplingParams()) for s in "abcd"))
    assert sum(rows * length for rows, length in backend.prefilled) == 256 + 4 * 16
    later = run(engine, TokenSequence("e", shared("e"), SamplingParams()))
    assert backend.prefilled[-1] == (1, 16)
    for name, progress in (answers | later).items():
        alone = run(make(), TokenSequence(name, shared(name), SamplingParams()))
        assert tokens(progress) == tokens(alone[name])


def test_a_row_evicted_during_its_prefill_disturbs_nobody() -> None:
    engine = make()
    lengths = (("a", 490), ("b", 485), ("c", 3), ("d", 40))
    group = [sequence(name, n, max_tokens=9, ignore_eos=True) for name, n in lengths]
    engine.admit(group)
    engine.step()
    engine.evict("a")
    answers: dict[str, list[int]] = {s.id: [] for s in group}
    for _ in range(30):
        for progress in engine.step():
            answers[progress.sequence_id] += progress.token_ids
    assert answers["a"] == []
    assert answers["b"] == tokens(run(make(), group[1])["b"])


@pytest.mark.parametrize("length", [0, LONGEST])
def test_a_prompt_that_leaves_no_room_is_refused(length: int) -> None:
    with pytest.raises(EngineError, match="no room"):
        make().admit([sequence("a", length)])


LENGTHS = st.one_of(st.integers(1, 60), st.integers(1, LONGEST - 1))


@given(
    lengths=st.lists(st.tuples(LENGTHS, st.integers(1, 20)), min_size=1, max_size=12),
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
    for joining in [*joins, *[SLOTS] * 600]:
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
