"""What the choice among a route's targets promises, whatever their state."""

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nexus_jobs.job import JobError, Message, Request
from nexus_jobs.ports import Ending
from nexus_jobs.route import Algorithm, Route
from nexus_jobs.routing import (
    Breaker,
    Health,
    PeakEwma,
    TargetState,
    choose,
    prefix_key,
    verdict,
)
from nexus_jobs.states import State

NOW = 1000.0
MODELS = ("a", "b", "c", "d")
SICK = Health(3, failed_at=NOW)
WELL = TargetState()

weights = st.lists(st.floats(0.1, 10), min_size=1, max_size=4)
algorithms = st.sampled_from(Algorithm)
healths = st.builds(
    Health,
    st.integers(0, 6),
    st.sampled_from([NOW, NOW - 29, NOW - 31]),
    st.sampled_from([None, NOW - 1, NOW - 31]),
)
states = st.builds(
    TargetState,
    reachable=st.booleans(),
    health=healths,
    outstanding=st.integers(0, 50),
    latency=st.sampled_from([0.0, 0.5, 3.0]),
    backlog_tokens=st.floats(0, 1e6),
)


def route(*weights, **fields):
    targets = [{"model": m, "weight": w} for m, w in zip(MODELS, weights, strict=False)]
    return Route(name="r", targets=targets, **fields)


def pick(route, states, *, now=NOW, turn=0, chance=0.5, key=b""):
    return choose(route, states, now=now, turn=turn, chance=chance, key=key)


@given(
    algorithm=algorithms,
    weights=weights,
    states=st.fixed_dictionaries(dict.fromkeys(MODELS, states)),
    turn=st.integers(0, 100),
    chance=st.floats(0, 1, exclude_max=True),
    key=st.binary(max_size=4),
)
def test_only_who_is_well_is_chosen_and_somebody_is_if_anybody_is(
    algorithm, weights, states, turn, chance, key
):
    fallback = MODELS[len(weights) :]
    r = route(*weights, algorithm=algorithm, fallback=fallback)

    def well(model):
        health = states[model].health
        closed = health.failures < 3
        probing = health.probed_at is not None and health.probed_at > NOW - 30
        return states[model].reachable and (closed or (health.failed_at < NOW - 30 and not probing))

    targets = [target.model for target in r.targets if well(target.model)]
    spare = [model for model in fallback if well(model)]
    chosen = pick(r, states, turn=turn, chance=chance, key=key)
    if targets:
        assert chosen in targets
    else:
        assert chosen == (spare[0] if spare else None)


@given(weights=weights)
def test_weights_are_kept_in_the_long_run(weights):
    r, n = route(*weights, algorithm=Algorithm.WEIGHTED), 1000
    seen = Counter(pick(r, dict.fromkeys(MODELS, WELL), chance=i / n) for i in range(n))
    for target in r.targets:
        assert seen[target.model] == pytest.approx(n * target.weight / sum(weights), abs=2)


@given(n=st.integers(1, 4), rounds=st.integers(1, 5), first=st.integers(0, 9))
def test_turns_are_equal(n, rounds, first):
    r = route(*[1] * n, algorithm=Algorithm.ROUND_ROBIN)
    turns = range(first, first + n * rounds)
    seen = Counter(pick(r, dict.fromkeys(MODELS, WELL), turn=turn) for turn in turns)
    assert set(seen.values()) == {rounds}


@given(weights=weights, jobs=st.integers(1, 200))
def test_the_fewest_outstanding_jobs_come_to_shares_by_weight(weights, jobs):
    r = route(*weights, algorithm=Algorithm.LEAST_CONNECTIONS)
    sent = Counter()
    for turn in range(jobs):
        state = {model: TargetState(outstanding=sent[model]) for model in MODELS}
        sent[pick(r, state, turn=turn)] += 1
    for target in r.targets:
        share = jobs * target.weight / sum(weights)
        assert abs(sent[target.model] - share) <= len(weights)


def test_the_quickest_gets_the_request_until_its_queue_eats_up_the_difference():
    r = route(1, 1, algorithm=Algorithm.LEAST_LATENCY)

    def chosen(outstanding):
        fast = TargetState(latency=1.0, outstanding=outstanding)
        return pick(r, {"a": fast, "b": TargetState(latency=3.5)})

    assert [chosen(n) for n in range(5)] == ["a", "a", "a", "b", "b"]


def test_a_target_of_unknown_latency_gets_one_request_and_no_crowd():
    r = route(1, 1, algorithm=Algorithm.LEAST_LATENCY)
    known = TargetState(latency=2.0, outstanding=9)
    assert pick(r, {"a": known, "b": WELL}) == "b"
    assert pick(r, {"a": known, "b": TargetState(outstanding=1)}) == "a"


def test_the_smallest_backlog_for_its_weight_gets_the_request():
    r = route(1, 3, algorithm=Algorithm.LEAST_BACKLOG_TOKENS)
    small, large = TargetState(backlog_tokens=100), TargetState(backlog_tokens=200)
    assert pick(r, {"a": small, "b": large}) == "b"
    assert pick(r, {"a": large, "b": TargetState(backlog_tokens=700)}) == "a"


KEYS = [str(number).encode() for number in range(3000)]


def test_a_target_that_leaves_moves_its_own_keys_only():
    r = route(1, 1, 1, 1, algorithm=Algorithm.CONSISTENT_HASH)
    before = {key: pick(r, dict.fromkeys(MODELS, WELL), key=key) for key in KEYS}
    after = {key: pick(r, dict.fromkeys(MODELS[:3], WELL), key=key) for key in KEYS}
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {before[key] for key in moved} == {"d"}
    assert len(moved) / len(KEYS) == pytest.approx(1 / 4, abs=0.04)
    assert Counter(after[key] for key in moved).keys() == {"a", "b", "c"}


def test_keys_are_shared_out_by_weight():
    r = route(1, 3, algorithm=Algorithm.CONSISTENT_HASH)
    seen = Counter(pick(r, dict.fromkeys(MODELS, WELL), key=key) for key in KEYS)
    assert seen["b"] / len(KEYS) == pytest.approx(3 / 4, abs=0.04)


@given(jobs=st.integers(1, 300), weights=weights)
@example(jobs=24, weights=[3.5065980425728975, 3.5065980425728975])  # a share is rounded up
def test_one_key_for_all_overloads_nobody(jobs, weights):
    r = route(*weights, algorithm=Algorithm.CONSISTENT_HASH)
    sent = Counter()
    for _ in range(jobs):
        state = {model: TargetState(outstanding=sent[model]) for model in MODELS}
        sent[pick(r, state, key=b"the same")] += 1
    for target in r.targets:
        share = jobs * target.weight / sum(weights)
        assert sent[target.model] < 1.25 * share + 1 + 1e-9


def test_a_breaker_opens_rests_lets_one_probe_through_and_closes_or_opens_again():
    r = route(1, failure_threshold=2, open_seconds=10)
    health = Health().after(0.0, succeeded=False)
    assert health.breaker(r, 0.0) is Breaker.CLOSED
    assert Health().after(0.0, succeeded=True) == health.after(1.0, succeeded=True) == Health()
    health = health.after(1.0, succeeded=False)
    assert health.breaker(r, 10.9) is Breaker.OPEN
    assert not health.lets_pass(r, 10.9)
    assert health.breaker(r, 11.0) is Breaker.HALF_OPEN
    assert health.lets_pass(r, 11.0)
    probing = health.chosen(r, 11.0)
    assert not probing.lets_pass(r, 20.9)
    assert probing.lets_pass(r, 21.0)  # nothing was heard of the probe
    assert probing.after(12.0, succeeded=False).breaker(r, 21.9) is Breaker.OPEN
    assert probing.after(12.0, succeeded=True).breaker(r, 12.0) is Breaker.CLOSED


def test_choosing_a_target_that_is_well_leaves_no_trace_in_its_breaker():
    assert Health(1).chosen(route(1), NOW) == Health(1)
    assert SICK.chosen(route(1), NOW) == SICK


def test_a_peak_is_followed_at_once_and_forgotten_slowly():
    calm = PeakEwma().after(1.0, 0.0)
    peak = calm.after(9.0, 1.0)
    assert peak.read(1.0) == 9.0
    falling = [peak.after(1.0, at).read(at) for at in (2.0, 6.0, 31.0)]
    assert 8.0 < falling[0] < 9.0
    assert falling[0] > falling[1] > falling[2]
    assert falling[2] == pytest.approx(1.4, abs=0.05)
    assert peak.read(11.0) == pytest.approx(9.0 / 2.718, abs=0.01)
    assert PeakEwma().read(5.0) == 0.0


def test_a_key_is_the_beginning_that_requests_share():
    system = Message("system", "You are " + "very " * 60)
    one = Request(model="r", messages=(system, Message("user", "one")))
    two = Request(model="r", messages=(system, Message("user", "two")))
    assert prefix_key(one) == prefix_key(two)
    short = Message("system", "Short.")
    one = Request(model="r", messages=(short, Message("user", "one")))
    two = Request(model="r", messages=(short, Message("user", "two")))
    assert prefix_key(one) != prefix_key(two)
    long = Request(model="r", prompt="x" * 256 + "tail")
    assert prefix_key(long) == b"x" * 256
    assert prefix_key(Request(model="r", prompt="\ud800"))


@pytest.mark.parametrize(
    ("state", "code", "speaks"),
    [
        (State.SUCCEEDED, None, True),
        (State.DEAD, "engine_error", False),
        (State.FAILED, "ran_too_long", False),
        (State.FAILED, "prompt_too_long", None),
    ],
)
def test_only_what_the_model_did_counts_for_or_against_it(state, code, speaks):
    error = JobError(code, "") if code else None
    ending = Ending(
        model="m", state=state, attempt=1, started_at=0, finished_at=1, worker="w", error=error
    )
    assert verdict(ending) is speaks
