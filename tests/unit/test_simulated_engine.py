"""The simulated engine answers with the prompt's own words, in the time it is told to take."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_jobs.adapters.engines.simulated import SimulatedEngine
from nexus_jobs.adapters.engines.words import WordTokenizer
from nexus_jobs.engine import TokenSequence
from nexus_jobs.job import FinishReason, Message, SamplingParams
from nexus_jobs.models import SimulatedTimes

tokenizer = WordTokenizer()


def engine(slots: int = 8, length: int = 100, **times: float) -> SimulatedEngine:
    return SimulatedEngine(SimulatedTimes(**times), slots, length, sleep=_must_not_sleep)


def _must_not_sleep(seconds: float) -> None:
    pytest.fail(f"slept {seconds} s")


def sequence(text: str, name: str = "row", **params: object) -> TokenSequence:
    return TokenSequence(name, tokenizer.encode(text), SamplingParams(**params))


def answer(text: str, *, length: int = 100, **params: object) -> tuple[str, FinishReason]:
    """The whole answer to one prompt that is alone in the batch."""
    running = engine(length=length)
    running.admit([sequence(text, **params)])
    tokens: list[int] = []
    while True:
        (progress,) = running.step()
        tokens += progress.token_ids
        if progress.finish_reason is not None:
            assert running.step() == []
            return tokenizer.decode(tokens), progress.finish_reason


@given(st.text())
def test_every_text_round_trips(text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "text", ["\ud800 lone", "\0zero first", "  two  blanks\n", "naïve 你好 🙂"]
)
def test_odd_texts_round_trip(text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_token_is_a_word() -> None:
    assert len(tokenizer.encode("three words here")) == 3


def test_a_chat_is_answered_with_the_words_of_its_last_turn() -> None:
    chat = [Message("system", "be brief"), Message("user", "hello there")]
    assert tokenizer.render(chat) == "hello there"


@pytest.mark.parametrize(
    ("params", "expected", "reason"),
    [
        ({}, "red green blue", FinishReason.STOP),
        ({"max_tokens": 2}, "red green", FinishReason.LENGTH),
        ({"max_tokens": 3}, "red green blue", FinishReason.LENGTH),
        ({"min_tokens": 5}, "red green blue red green", FinishReason.STOP),
        ({"ignore_eos": True, "max_tokens": 4}, "red green blue red", FinishReason.LENGTH),
        ({"min_tokens": 9, "max_tokens": 4}, "red green blue red", FinishReason.LENGTH),
    ],
)
def test_an_answer_repeats_the_prompt_until_it_must_end(
    params: dict[str, object], expected: str, reason: FinishReason
) -> None:
    assert answer("red green blue", **params) == (expected, reason)


def test_prompt_and_answer_together_fit_the_model() -> None:
    text, reason = answer("a b c d e f", length=10, ignore_eos=True)
    assert (text, reason) == ("a b c d", FinishReason.LENGTH)


def test_an_empty_prompt_gets_an_empty_answer() -> None:
    assert answer("") == ("", FinishReason.STOP)


def test_rows_join_and_leave_at_any_step_and_keep_their_own_words() -> None:
    running = engine()
    running.admit([sequence("a b c", "first"), sequence("x y", "second")])
    texts = {"first": "", "second": "", "third": ""}
    for step in range(4):
        if step == 1:
            running.admit([sequence("1 2", "third")])
        for progress in running.step():
            texts[progress.sequence_id] += tokenizer.decode(progress.token_ids)
    assert texts == {"first": "a b c", "second": "x y", "third": "1 2"}


def test_an_evicted_row_is_gone_at_once_and_evicting_twice_does_no_harm() -> None:
    running = engine()
    running.admit([sequence("a b c", "first"), sequence("x y", "second")])
    running.evict("first")
    running.evict("first")
    assert [progress.sequence_id for progress in running.step()] == ["second"]


def test_it_takes_the_time_it_is_told_to() -> None:
    slept: list[float] = []
    times = SimulatedTimes(prefill_ms=2, step_ms=10, step_ms_per_row=5)
    running = SimulatedEngine(times, 8, 100, sleep=slept.append)
    running.admit([sequence("a b c", "first"), sequence("x y", "second")])
    running.step()
    assert slept == [pytest.approx(0.010), pytest.approx(0.020)]


def test_without_times_it_serves_ten_thousand_short_rows_a_second() -> None:
    running = engine(slots=64)
    rows, began = 0, time.process_time()
    while rows < 5000:
        running.admit([sequence("what is it", str(slot)) for slot in range(50)])
        while running.step():
            pass
        rows += 50
    assert time.process_time() - began < 0.5
