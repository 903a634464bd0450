"""What every plan keeps to, whatever the fleet looks like."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nexus_jobs.fleet import ModelState, Wanted
from nexus_jobs.placement import Fleet, Policy, Seat, WorkerLoad
from nexus_jobs.rebalance import rebalance
from tests.unit.fleets import NOW, after, fleet, model, worker

NAMES = [f"m{n}" for n in range(5)]
WORKERS = [f"w{n}" for n in range(5)]
MEMORY = {name: 10.0 * (1 + n % 3) for n, name in enumerate(NAMES)}
LIVE = (ModelState.READY, ModelState.LOADING)


@st.composite
def demands(draw):
    least = draw(st.integers(0, 2))
    return [
        model(
            name,
            draw(st.floats(0, 4)),
            queued=draw(st.sampled_from([0, 0, 1, 50, 5000])),
            running=draw(st.integers(0, 2)),
            oldest_wait=draw(st.sampled_from([None, 5.0, 100.0])),
            idle_seconds=draw(st.sampled_from([0.0, 100.0, 1e4])),
            memory_mb=MEMORY[name],
            wanted=draw(st.sampled_from([Wanted.AUTO, *Wanted])),
            pinned=draw(st.frozensets(st.sampled_from(WORKERS), max_size=1)),
            min_replicas=least,
            max_replicas=draw(st.sampled_from([None, least + 1, 4])),
        )
        for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5))
    ]


@st.composite
def workers(draw, name):
    memory, seats = draw(st.sampled_from([10.0, 30.0, 60.0])), {}
    most = draw(st.sampled_from([None, 1, 2]))
    free, places = memory, most or 9
    for each in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4)):
        state = draw(st.sampled_from(ModelState))
        if state in LIVE:
            if MEMORY[each] > free or not places:
                continue
            free, places = free - MEMORY[each], places - 1
        seats[each] = Seat(state, NOW - draw(st.sampled_from([5.0, 100.0, 1000.0])))
    return WorkerLoad(
        id=name,
        memory_mb=memory,
        max_models=most,
        speed=draw(st.sampled_from([0.5, 1.0, 3.0])),
        fixed=draw(st.integers(0, 5)) == 0,
        seats=seats,
    )


fleets = st.builds(
    Fleet, st.just(NOW), demands(), st.tuples(*(workers(name) for name in WORKERS)).map(list)
)
policies = st.builds(
    Policy,
    utilisation=st.floats(0.3, 1),
    margin=st.floats(0, 2),
    reserve=st.floats(0, 4),
    reserve_hysteresis=st.floats(0, 2),
    hysteresis=st.floats(0, 1),
    dwell_seconds=st.sampled_from([0.0, 60.0, 500.0]),
    idle_seconds=st.sampled_from([None, 60.0]),
)


def held(load, *states):
    return {name for name, seat in load.seats.items() if seat.state in states}


@given(seen=fleets, policy=policies)
def test_no_worker_holds_more_than_it_may_and_unloads_come_first(seen, policy):
    sizes = {load.id: held(load, *LIVE) for load in seen.workers}
    limits = {load.id: load for load in seen.workers}
    for move in rebalance(seen, policy).moves:
        on = sizes[move.worker]
        if move.action == "unload":
            on.discard(move.model)  # one that failed to load holds nothing
            continue
        assert move.model not in on
        on.add(move.model)
        assert sum(MEMORY[name] for name in on) <= limits[move.worker].memory_mb
        assert len(on) <= (limits[move.worker].max_models or 9)


@given(seen=fleets, policy=policies)
def test_no_model_leaves_a_worker_only_to_come_back(seen, policy):
    moves = [(move.model, move.worker) for move in rebalance(seen, policy).moves]
    assert len(moves) == len(set(moves))


@given(seen=fleets, policy=policies)
def test_a_persons_decisions_are_kept(seen, policy):
    by_name = {each.model: each for each in seen.demands}
    fixed = {load.id for load in seen.workers if load.fixed}
    for move in rebalance(seen, policy).moves:
        demand = by_name.get(move.model)
        assert move.worker not in fixed
        if move.action == "load":
            assert demand is not None
            assert demand.wanted != "unloaded"
        elif demand is not None and demand.wanted != "unloaded":
            assert move.worker not in demand.pinned


@given(seen=fleets, policy=policies)
def test_replicas_stay_within_their_bounds(seen, policy):
    later = after(seen.workers, rebalance(seen, policy).moves, NOW)
    for demand in (each for each in seen.demands if each.wanted != "unloaded"):
        before = sum(demand.model in held(load, *LIVE) for load in seen.workers)
        count = sum(demand.model in held(load, *LIVE) for load in later)
        assert count >= min(before, demand.min_replicas)
        if demand.max_replicas is not None:
            assert count <= max(before, demand.max_replicas) + len(demand.pinned)


@given(seen=fleets, policy=policies)
def test_a_model_with_jobs_keeps_a_ready_server_but_to_let_one_without_any_take_a_turn(
    seen, policy
):
    left = {load.id: held(load, ModelState.READY) for load in seen.workers}
    moves = rebalance(seen, policy).moves
    placed = {name for load in seen.workers for name in held(load, *LIVE)}
    overdue = {
        each.model
        for each in seen.demands
        if each.model not in placed and (each.oldest_wait or 0) >= policy.slo_seconds
    }
    turns = {m.worker for m in moves if m.action == "load" and m.model in overdue}
    for demand in seen.demands:
        if demand.wanted == "unloaded" or not (demand.queued or demand.running):
            continue
        servers = {load for load, names in left.items() if demand.model in names}
        leaving = {m.worker for m in moves if m.model == demand.model and m.action == "unload"}
        assert not servers or servers - leaving or leaving & turns


@given(seen=fleets, policy=policies)
def test_nothing_leaves_before_its_time_unless_a_person_says_so(seen, policy):
    by_name = {each.model: each for each in seen.demands}
    seats = {(load.id, name): seat for load in seen.workers for name, seat in load.seats.items()}
    for move in rebalance(seen, policy).moves:
        demand = by_name.get(move.model)
        if move.action == "load" or demand is None or demand.wanted == "unloaded":
            continue
        count = sum(move.model in held(load, *LIVE) for load in seen.workers)
        if demand.max_replicas is None or count <= demand.max_replicas:  # else: too many
            assert NOW - seats[move.worker, move.model].since >= policy.dwell_seconds


@given(seen=fleets, policy=policies)
def test_nothing_is_loaded_where_it_failed(seen, policy):
    failed = {(load.id, name) for load in seen.workers for name in held(load, ModelState.FAILED)}
    loads = {(m.worker, m.model) for m in rebalance(seen, policy).moves if m.action == "load"}
    assert not loads & failed


@given(seen=fleets, policy=policies)
def test_every_model_with_jobs_has_a_place_or_a_reason(seen, policy):
    plan = rebalance(seen, policy)
    later = after(seen.workers, plan.moves, NOW)
    for demand in seen.demands:
        placed = any(demand.model in held(load, *LIVE) for load in later)
        assert (demand.model in plan.blocked) == (demand.queued > 0 and not placed)


@given(seen=fleets, policy=policies)
def test_the_same_snapshot_gives_the_same_plan(seen, policy):
    assert rebalance(seen, policy) == rebalance(seen, policy)


@given(seen=fleets, policy=policies)
def test_under_a_demand_that_stays_the_fleet_comes_to_rest(seen, policy):
    policy = replace(policy, hysteresis=max(policy.hysteresis, Policy().hysteresis))
    loads, now = seen.workers, NOW
    seen = replace(seen, demands=[replace(each, oldest_wait=None) for each in seen.demands])
    for _ in range(40):
        now += 1000
        plan = rebalance(replace(seen, workers=loads, now=now), policy)
        if not plan.moves:
            return
        loads = after(loads, plan.moves, now)
    raise AssertionError(plan.moves)


@given(
    turns=st.lists(st.tuples(st.floats(0, 0.7), st.floats(0, 0.7)), min_size=2, max_size=30),
    queued=st.integers(0, 10),
)
def test_small_loads_that_alternate_move_nothing(turns, queued):
    loads = [worker("w1", "a"), worker("w2", "b")]
    for number, needs in enumerate(turns):
        seen = [
            model(name, need, queued=queued * (number % 2))
            for name, need in zip("ab", needs, strict=True)
        ]
        assert rebalance(fleet(seen, loads, NOW + 10 * number), Policy()).moves == []


@given(st.integers(2, 5), st.sampled_from([10.0, 60.0]), st.sampled_from([5.0, 60.0]))
def test_models_that_share_one_worker_all_get_their_turn(count, dwell, load_seconds):
    policy, loads, now = Policy(dwell_seconds=dwell), [worker("w1")], NOW
    names = NAMES[:count]
    waiting_since = dict.fromkeys(names, now)
    ran = dict.fromkeys(names, 0.0)
    cycle = count * (load_seconds + max(dwell, 4 * load_seconds) + 20)
    while now < NOW + 3 * cycle:
        now += 5
        on = held(loads[0], ModelState.READY)
        for name in names:
            if name in on and loads[0].seats[name].since + load_seconds <= now:
                waiting_since[name], ran[name] = now, ran[name] + 5
        demands = [
            model(
                name,
                1.0,
                queued=50,
                oldest_wait=now - waiting_since[name],
                load_seconds=load_seconds,
            )
            for name in names
        ]
        loads = after(loads, rebalance(fleet(demands, loads, now), policy).moves, now)
    assert min(ran.values()) > max(ran.values()) / 2
    assert sum(ran.values()) > 0.7 * (now - NOW)


@given(heavy=st.floats(2, 20), turns=st.integers(2, 12))
def test_heavy_loads_that_alternate_move_no_seat_twice_within_the_dwell_time(heavy, turns):
    loads, policy = [worker(f"w{n}", "ab"[n % 2]) for n in range(6)], Policy(dwell_seconds=60)
    moved = {}
    for number in range(turns):
        now = NOW + 10 * number
        seen = [model("a", heavy * (number % 2)), model("b", heavy * (1 - number % 2))]
        moves = rebalance(fleet(seen, loads, now), policy).moves
        for move in (each for each in moves if each.action == "load"):
            assert now - moved.get(move.worker, -1e9) >= 60
            moved[move.worker] = now
        loads = after(loads, moves, now)
