"""What the adaptive controller promises, by itself and in a simulated worker."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.batching_simulation import (
    Phase,
    Simulation,
    Times,
    adaptive,
    arrivals,
    fixed,
    outcome,
)
from nexus_jobs.adaptive import AdaptiveBatching, StepTimes
from nexus_jobs.batching import BatchPolicy

SLOTS = 64
seconds = st.floats(0, 1e4)
event = st.one_of(
    st.tuples(st.just("stepped"), st.integers(1, SLOTS), seconds),
    st.tuples(st.just("claimed"), seconds),
    st.tuples(st.just("served"), seconds, seconds, st.integers(0, 4096)),
    st.tuples(st.just("passed"), seconds),
)


def controller(target=3.0, *, slots=SLOTS, max_wait=0.0):
    return AdaptiveBatching(BatchPolicy(slots=slots, max_wait=max_wait), target)


def tell(control, now, what, *values):
    if what == "served":
        queued, ran, tokens = values
        control.served(now, queued=queued, ran=ran, tokens=tokens)
    elif what != "passed":
        getattr(control, what)(*values)


def simulate(phases, control, times=Times(), *, seed=1, until=float("inf"), **lengths):  # noqa: B008
    jobs = arrivals(phases, seed, **lengths)
    simulation = Simulation(jobs, control, times, seed)
    simulation.run(until)
    return simulation, jobs


def typical_size(simulation, begin, end):
    sizes = sorted(m.policy.slots for m in simulation.moments if begin <= m.at < end)
    return sizes[len(sizes) // 2]


@given(
    events=st.lists(event, max_size=60),
    slots=st.integers(1, 256),
    max_wait=st.floats(0, 10),
    target=st.floats(0.001, 100),
    held=st.tuples(st.integers(0, 300), st.integers(0, 300)),
)
def test_whatever_happens_the_bounds_are_kept(events, slots, max_wait, target, held):
    control = controller(target, slots=slots, max_wait=max_wait)
    now = 0.0
    for what, *values in events:
        now += values[0] if what == "passed" else 0
        tell(control, now, what, *(min(v, slots) if what == "stepped" else v for v in values))
        policy = control.policy(now, awaited=held[0], filling=held[1])
        assert 1 <= policy.slots <= slots
        assert 0 <= policy.max_wait <= min(max_wait, target)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rate=st.floats(0.2, 15),
    bulk=st.integers(0, 60),
    target=st.floats(0.2, 10),
    max_wait=st.floats(0, 1),
)
def test_every_job_ends_and_an_idle_worker_holds_none_longer_than_max_wait(
    seed, rate, bulk, target, max_wait
):
    phases = [Phase(4, rate, bulk), Phase(30, 0.1), Phase(4, rate)]
    simulation, jobs = simulate(phases, adaptive(SLOTS, target, max_wait=max_wait), seed=seed)
    assert all(job.left == 0 for job in jobs)
    assert all(wait <= max_wait + 1e-9 for wait in simulation.idle_waits)
    assert all(moment.rows <= SLOTS for moment in simulation.moments)


@given(
    base=st.floats(0.001, 0.1),
    per_row=st.floats(0, 0.01),
    sizes=st.lists(st.integers(1, SLOTS), min_size=400, max_size=400),
)
def test_step_times_are_predicted_for_the_rows_at_hand(base, per_row, sizes):
    times = StepTimes()
    for rows in sizes + [sizes[-1]] * 60:
        times.learn(rows, base + per_row * rows)
    assert times.seconds(sizes[-1]) == pytest.approx(base + per_row * sizes[-1], rel=0.05)


def test_both_parts_of_the_step_time_are_learnt_from_varied_batches():
    times = StepTimes()
    for turn in range(3000):
        rows = 1 + turn % SLOTS
        times.learn(rows, 0.020 + 0.001 * rows)
    assert times.seconds(1) == pytest.approx(0.021, rel=0.1)
    assert times.rows_within(0.036, SLOTS) == pytest.approx(16, abs=1)


def test_one_slow_step_changes_little():
    times = StepTimes()
    for _ in range(100):
        times.learn(8, 0.028)
    times.learn(8, 10.0)
    assert times.seconds(8) < 0.028 * 1.15


BULK = Phase(60, 2, 4000)


def test_it_converges_to_the_size_that_the_target_allows():
    # Of the fixed sizes 10 has the most jobs in time: 64 tokens in 2.5 s leave 39 ms for a step,
    # less the prefill of those who join and the time until a slot is free.
    simulation, _ = simulate([BULK], adaptive(SLOTS, 2.5), until=60, awaited_tokens=(64, 64))
    assert 6 <= typical_size(simulation, 30, 60) <= 15


def test_it_converges_anew_when_the_hardware_slows_down():
    factor = [1.0]
    times = Times(step=lambda rows: factor[0] * (0.010 + 0.0005 * rows))
    jobs = arrivals([Phase(120, 2, 6000)], 1, awaited_tokens=(64, 64))
    simulation = Simulation(jobs, adaptive(SLOTS, 2.5), times)
    simulation.run(60)
    factor[0] = 2.0
    simulation.run(120)
    before, after = typical_size(simulation, 30, 60), typical_size(simulation, 90, 120)
    assert before > 25
    assert 6 <= after <= 15


def test_noisy_steps_do_not_lead_it_astray():
    times = Times(jitter=0.4)
    simulation, _ = simulate([BULK], adaptive(SLOTS, 2.5), times, until=60, awaited_tokens=(64, 64))
    assert 5 <= typical_size(simulation, 30, 60) <= 20


def test_steps_that_cost_the_same_for_any_rows_get_the_biggest_batch():
    times = Times(step=lambda rows: 0.030, prefill_per_token=0)
    simulation, _ = simulate([Phase(20, 1), BULK], adaptive(SLOTS, 1.5), times, until=80)
    assert typical_size(simulation, 20, 80) == SLOTS


def test_steps_in_proportion_to_rows_lose_nothing_to_the_target():
    times = Times(step=lambda rows: 0.0015 * rows)
    runs = {}
    for name, control in (("fixed", fixed(SLOTS)), ("adaptive", adaptive(SLOTS, 2.5))):
        simulation, jobs = simulate([BULK], control, times, until=60)
        runs[name] = outcome(simulation, jobs, 2.5)
    assert runs["adaptive"].in_time > 2 * runs["fixed"].in_time
    assert runs["adaptive"].tokens_per_second > 0.97 * runs["fixed"].tokens_per_second


def test_a_target_that_nothing_can_meet_costs_no_throughput():
    rates = []
    for control in (fixed(SLOTS), adaptive(SLOTS, 0.05)):
        simulation, jobs = simulate([BULK], control, until=60)
        rates.append(outcome(simulation, jobs, 0.05).tokens_per_second)
    assert rates[1] > 0.95 * rates[0]


def test_overload_by_awaited_jobs_fills_the_batch():
    simulation, _ = simulate([Phase(60, 30)], adaptive(SLOTS, 2.0), until=60)
    assert typical_size(simulation, 20, 60) == SLOTS
    assert min(moment.rows for moment in simulation.moments if moment.at > 20) >= SLOTS - 4


def test_bulks_get_the_whole_batch_when_nobody_has_waited_for_a_while():
    simulation, _ = simulate([Phase(30, 2, 4000), Phase(60)], adaptive(SLOTS, 2.0), until=90)
    assert typical_size(simulation, 15, 30) < SLOTS / 2
    assert typical_size(simulation, 60, 90) == SLOTS


def test_without_bulks_it_is_as_good_as_the_biggest_batch():
    phases = [Phase(20, 1), Phase(20, 8), Phase(20, 20), Phase(40, 4)]
    shares = []
    for control in (fixed(SLOTS), adaptive(SLOTS, 3.0)):
        simulation, jobs = simulate(phases, control)
        shares.append(outcome(simulation, jobs, 3.0).in_time)
    assert shares[1] == pytest.approx(shares[0], abs=0.01)


def test_no_fixed_size_has_as_many_in_time_at_the_same_throughput():
    phases = [Phase(30, 0.5), Phase(60, 2, 3000), Phase(30, 7), Phase(30, 1), Phase(30)]
    end = sum(phase.seconds for phase in phases)

    def measure(control):
        simulation, jobs = simulate(phases, control, seed=7, until=end)
        return outcome(simulation, jobs, 3.0)

    ours = measure(adaptive(SLOTS, 3.0))
    for size in (8, 12, 16, 20, 24, 28, 32, 40, 48, 64):
        theirs = measure(fixed(size))
        assert theirs.in_time < ours.in_time or theirs.tokens_per_second < ours.tokens_per_second, (
            f"size {size}"
        )


def test_a_wait_is_afforded_only_behind_jobs_that_leave_time_for_it():
    control = controller(target=3.0, max_wait=1.0)
    control.served(1.0, queued=0.0, ran=1.0, tokens=10)
    assert control.policy(1.0, awaited=0, filling=0).max_wait == pytest.approx(0.3)
    control.served(2.0, queued=0.0, ran=2.9, tokens=10)
    assert control.policy(2.0, awaited=0, filling=0).max_wait == pytest.approx(0.1)
    control.served(3.0, queued=0.0, ran=3.5, tokens=10)
    assert control.policy(3.0, awaited=0, filling=0).max_wait == 0
