from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nexus_jobs.adapters.engines.sampling import Floats, Sampler, choose, likeliest, pick
from nexus_jobs.job import SamplingParams

VOCABULARY = 300
EOS = 7
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, top_p=0.9, top_k=40, seed=3)

logits_of_any_shape = arrays(
    np.float32, st.integers(1, 400), elements=st.floats(-30, 30, width=32), unique=True
)


def peaked(seed: int, rows: int = 1, size: int = VOCABULARY) -> Floats:
    return (np.random.default_rng(seed).normal(size=(rows, size)) * 4).astype(np.float32)


def sampler(params: SamplingParams, prompt: tuple[int, ...] = ()) -> Sampler:
    return Sampler(params, prompt, [EOS])


def weights_of(logits: Floats) -> Floats:
    return np.exp(logits - logits.max())


def reference(logits: Floats, params: SamplingParams) -> Floats:
    """Probabilities by the textbook: sort everything, cut, normalise."""
    scaled = logits.astype(np.float64) / params.temperature
    order = np.argsort(-scaled)
    chances = np.exp(scaled[order] - scaled.max())
    if params.top_k:
        chances[params.top_k :] = 0
    chances /= chances.sum()
    before = np.cumsum(chances) - chances
    chances[before >= params.top_p] = 0
    result = np.zeros_like(scaled)
    result[order] = chances / chances.sum()
    return result


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.5, top_k=5),
        SamplingParams(temperature=2.0, top_p=0.7),
        SamplingParams(temperature=5.0, top_p=0.99),
        SamplingParams(temperature=1.0, top_k=20, top_p=0.8),
    ],
)
def test_tokens_come_as_often_as_their_probability_says(params: SamplingParams) -> None:
    logits = peaked(1, size=30)[0]
    row = sampler(replace(params, seed=11))
    draws = 4000
    counts = np.bincount([row.draw(logits) for _ in range(draws)], minlength=30)
    expected = reference(logits, params)
    spread = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(counts / draws - expected) <= 5 * spread).all()


@given(logits=logits_of_any_shape, top_k=st.integers(1, 500))
def test_top_k_keeps_the_k_likeliest(logits: Floats, top_k: int) -> None:
    weights = weights_of(logits)
    kept = likeliest(weights, top_k, 1.0)
    if top_k >= len(weights):
        assert kept is None
        return
    assert kept is not None
    bar = np.sort(weights)[-top_k]
    assert set(kept) == set(np.flatnonzero(weights >= bar))
    assert (np.diff(weights[kept]) <= 0).all()


@given(logits=logits_of_any_shape, top_k=st.integers(0, 500), top_p=st.floats(0, 0.999))
def test_top_p_keeps_the_fewest_tokens_that_reach_it(
    logits: Floats, top_k: int, top_p: float
) -> None:
    weights = weights_of(logits).astype(np.float64)
    kept = likeliest(weights, top_k, top_p)
    assert kept is not None
    assert len(kept) >= 1
    allowed = weights if not top_k else np.sort(weights)[-top_k:]
    share = np.cumsum(weights[kept]) / allowed.sum()
    assert share[-1] >= top_p - 1e-9
    assert len(kept) == 1 or share[-2] <= top_p + 1e-9
    if not top_k:
        others = np.delete(weights, kept)
        assert others.size == 0 or others.max() <= weights[kept].min()


def test_equals_of_the_kth_token_stay() -> None:
    kept = likeliest(np.array([0.5, 1.0, 0.5, 0.1]), 2, 1.0)
    assert kept is not None
    assert kept.tolist() == [1, 0, 2]


def test_a_flat_distribution_needs_all_of_the_vocabulary() -> None:
    kept = likeliest(np.ones(5000), 0, 0.9)
    assert kept is not None
    assert len(kept) == 4500


def test_tokens_far_below_the_likeliest_are_found_when_top_k_asks_for_them() -> None:
    weights = np.array([1.0, 1e-9, 1e-7, 1e-8])
    kept = likeliest(weights, 3, 1.0)
    assert kept is not None
    assert kept.tolist() == [0, 2, 3]


@given(
    weights=arrays(np.float32, st.integers(1, 700), elements=st.floats(0, 1, width=32)),
    chance=st.floats(1e-9, 1),
)
@settings(max_examples=50)
def test_a_pick_is_the_first_whose_running_sum_reaches_the_chance(
    weights: Floats, chance: float
) -> None:
    weights[0] = 1
    index = pick(weights, chance)
    mass = np.cumsum(weights, dtype=np.float64)
    assert weights[index] > 0
    assert mass[index] >= chance * mass[-1] * (1 - 1e-5)
    assert index == 0 or mass[index - 1] <= chance * mass[-1] * (1 + 1e-5)


@given(temperature=st.floats(1e-30, 2), seed=st.integers(0, 2**63 - 1))
@settings(max_examples=50)
def test_any_temperature_and_seed_draw_a_possible_token(temperature: float, seed: int) -> None:
    logits = peaked(2)[0]
    logits[5:] = -np.inf
    assert sampler(SamplingParams(temperature=temperature, seed=seed)).draw(logits) < 5


def test_a_very_low_temperature_is_greedy() -> None:
    logits = peaked(3)
    row = sampler(SamplingParams(temperature=1e-6, seed=1))
    assert choose(logits.copy(), [row]) == [int(logits.argmax())]


def test_company_never_changes_what_a_row_draws() -> None:
    params = [
        replace(SAMPLED, seed=seed, temperature=0.3 + seed / 4, top_k=seed * 7) for seed in range(6)
    ]
    params += [
        SamplingParams(repetition_penalty=1.4),
        SamplingParams(temperature=1, seed=1),
        SamplingParams(temperature=40, top_p=0.95, seed=2),
        SamplingParams(temperature=1, top_k=5, repetition_penalty=1.2, min_tokens=30, seed=3),
    ]
    steps = [peaked(seed, rows=len(params)) for seed in range(20)]
    company = [sampler(p) for p in params]
    together = [choose(logits.copy(), company) for logits in steps]
    for index, own in enumerate(params):
        lone = sampler(own)
        alone = [choose(logits[index : index + 1].copy(), [lone])[0] for logits in steps]
        assert alone == [tokens[index] for tokens in together]


def test_rows_without_a_seed_differ() -> None:
    flat = np.zeros((2, 100_000), np.float32)
    rows = [sampler(SamplingParams(temperature=1.0)) for _ in range(2)]
    first, second = choose(flat, rows)
    assert first != second


def test_the_penalty_lowers_tokens_of_the_prompt_and_of_the_answer() -> None:
    logits = np.full((1, VOCABULARY), -9, np.float32)
    logits[0, [1, 2, 3]] = 4.0, 3.5, 3.0
    row = sampler(SamplingParams(repetition_penalty=2.0), prompt=(1,))
    assert choose(logits.copy(), [row]) == [2]
    row.accept(2)
    assert choose(logits.copy(), [row]) == [3]


def test_the_penalty_makes_negative_logits_more_negative() -> None:
    logits = np.array([[-1.0, -1.5, -9.0]], np.float32)
    row = Sampler(SamplingParams(repetition_penalty=2.0), [0], [])
    assert choose(logits, [row]) == [1]
    assert logits[0, 0] == -2.0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_end_cannot_come_before_min_tokens(temperature: float) -> None:
    logits = np.zeros((1, VOCABULARY), np.float32)
    logits[0, EOS] = 100
    row = sampler(SamplingParams(min_tokens=2, temperature=temperature, seed=1))
    tokens = []
    for _ in range(3):
        tokens += choose(logits.copy(), [row])
        row.accept(tokens[-1])
    assert EOS not in tokens[:2]
    assert tokens[2] == EOS


def test_the_end_never_comes_when_it_is_ignored() -> None:
    logits = np.zeros((1, VOCABULARY), np.float32)
    logits[0, EOS] = 100
    assert choose(logits, [sampler(SamplingParams(ignore_eos=True))]) != [EOS]


def test_greedy_rows_are_not_disturbed_by_sampled_ones() -> None:
    logits = peaked(4, rows=3)
    rows = [sampler(GREEDY), sampler(SAMPLED), sampler(GREEDY)]
    tokens = choose(logits.copy(), rows)
    assert [tokens[0], tokens[2]] == logits.argmax(axis=-1)[[0, 2]].tolist()
