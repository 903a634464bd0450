"""Which models are put on which workers."""

from dataclasses import replace

import pytest

from nexus_jobs.fleet import ModelState, Wanted
from nexus_jobs.placement import Policy
from nexus_jobs.rebalance import rebalance
from tests.unit.fleets import LONG_AGO, NOW, after, fleet, model, worker

POLICY = Policy(utilisation=1, reserve=0)


def moves(demands, workers, policy=POLICY):
    plan = rebalance(fleet(demands, workers), policy)
    return [(move.action, move.model, move.worker) for move in plan.moves]


def test_where_everything_fits_everything_is_loaded_everywhere_and_stays():
    demands = [model("a", 0.9), model("b")]
    empty = [worker("w1", memory_mb=20), worker("w2", memory_mb=20)]
    plan = rebalance(fleet(demands, empty), POLICY)
    assert sorted((m.action, m.model, m.worker) for m in plan.moves) == [
        ("load", name, at) for name in ("a", "b") for at in ("w1", "w2")
    ]
    full = after(empty, plan.moves, LONG_AGO)
    for shifted in (demands, [model("a"), model("b", 9, queued=1000, oldest_wait=60)]):
        assert moves(shifted, full) == []


def test_a_shift_of_the_load_moves_a_worker():
    workers = [worker("w1", "a"), worker("w2", "a"), worker("w3", "b")]
    plan = rebalance(fleet([model("a", 0.5), model("b", 2.0)], workers), POLICY)
    assert [(m.action, m.model) for m in plan.moves] == [("unload", "a"), ("load", "b")]
    assert plan.moves[0].worker == plan.moves[1].worker
    assert "b needs 2.00 workers and gets 1.00" in plan.moves[1].reason
    assert "a needs 0.50 workers and stays on 1" in plan.moves[0].reason


def test_a_model_that_a_burst_would_find_on_too_few_workers_gets_a_reserve():
    policy = Policy(reserve=2, reserve_hysteresis=1)  # 4 workers need 8, 0.25 need 1.25
    many = [worker(f"w{number}", "b") for number in range(7)]
    few = [worker(f"v{number}", "a") for number in range(4)]
    plan = rebalance(fleet([model("a", 0.25), model("b", 4.0)], [*few, *many]), policy)
    assert [(m.action, m.model) for m in plan.moves] == [("unload", "a"), ("load", "b")]
    assert "b has 7.0 workers and should have 8.0 in case of a burst" in plan.moves[1].reason
    as_short = [model("a", 1.0), model("b", 4.0)]  # 3 workers need 3: not twice as well off
    assert moves(as_short, [*few, *many], policy) == []
    idle = [model("a"), model("b", 4.0)]
    assert moves(idle, [few[0], *many], policy) == []  # no reserve is worth a last place


def test_a_seat_that_moved_lately_stays_where_it_is_whatever_reserve_is_short():
    few = [worker(f"v{number}", "a", since=NOW - 200) for number in range(4)]
    many = [worker(f"w{number}", "b") for number in range(7)]
    demands = [model("a", 0.25), model("b", 4.0)]
    assert moves(demands, [*few, *many], Policy(dwell_seconds=60)) == []
    assert moves(demands, [*few, *many], Policy(dwell_seconds=30)) != []


def test_jobs_that_wait_come_before_a_reserve():
    reserve, needs = model("d", 0.5), model("g", 0.3, queued=20, oldest_wait=20)
    workers = [worker("w1", "g"), worker("v1", "d"), worker("v2", "d")]
    assert ("load", "g") in {move[:2] for move in moves([reserve, needs], workers, Policy())}
    lacks, needs = model("x", 0.6), model("y", 0.2, queued=40, oldest_wait=30)
    workers = [worker("w1", "x"), worker("w2", "y"), worker("w3")]
    assert moves([lacks, needs], workers, Policy()) == [("load", "y", "w3")]


def test_nobody_becomes_short_for_the_reserve_of_another():
    lacks, works = model("g", 2.0), model("d", 0.01, queued=40)
    workers = [worker(f"w{n}", "g") for n in range(3)] + [worker(f"v{n}", "d") for n in range(2)]
    assert moves([lacks, works], workers, Policy()) == []


def test_a_backlog_that_ends_before_a_load_would_moves_nothing():
    workers = [worker("w1", "a"), worker("w2", "a"), worker("w3", "b")]
    short_queue = model("b", 0.1, queued=20, load_seconds=30)
    assert moves([model("a", 0.1), short_queue], workers, Policy(slo_seconds=5)) == []
    assert moves([model("a", 0.1), replace(short_queue, load_seconds=5)], workers) == []
    quick = replace(short_queue, load_seconds=5)
    assert moves([model("a", 0.1), quick], workers, Policy(slo_seconds=5)) != []


def test_a_model_that_is_nearly_as_badly_off_gives_nothing():
    workers = [worker(f"w{n}", "a") for n in range(5)] + [worker("w5", "b"), worker("w6", "b")]
    demands = [model("a", 4.7), model("b", 2.5)]
    assert moves(demands, workers, Policy(utilisation=1, reserve=0, hysteresis=0.1)) == []
    assert moves(demands, workers, Policy(utilisation=1, reserve=0, hysteresis=0)) != []


def test_nobody_leaves_if_the_room_would_still_not_be_enough():
    demands = [model("idle"), model("last", 0.1), model("big", queued=9, memory_mb=20)]
    assert moves(demands, [worker("w1", "idle", "last", memory_mb=20)]) == []
    leaves = moves(demands, [worker("w1", "idle", "last", memory_mb=20), worker("w2", "last")])
    assert leaves[-1] == ("load", "big", "w1")
    assert len(leaves) == 3


def test_a_model_stays_for_the_dwell_time():
    workers = [worker("w1", "a", since=NOW - 30), worker("w2", "a", since=NOW - 30)]
    workers.append(worker("w3", "b"))
    demands = [model("a", 0.5), model("b", 3.0)]
    assert moves(demands, workers, Policy(dwell_seconds=60)) == []
    assert moves(demands, workers, Policy(dwell_seconds=20)) != []


def test_the_first_request_of_a_model_brings_it_onto_the_least_useful_place():
    workers = [worker("w1", "busy"), worker("w2", "idle"), worker("w3", "busy")]
    demands = [model("busy", 1.5), model("idle", idle_seconds=900), model("new", queued=1)]
    assert moves(demands, workers) == [("unload", "idle", "w2"), ("load", "new", "w2")]


def test_the_last_server_of_a_model_with_jobs_stays_and_who_waits_learns_why():
    demands = [model("a", 0.1), model("b", queued=50, oldest_wait=9)]
    plan = rebalance(fleet(demands, [worker("w1", "a")]), POLICY)
    assert plan.moves == []
    assert plan.blocked == {"b": "no worker can make room for it yet"}


@pytest.mark.parametrize(
    ("waits", "load_seconds", "stayed", "swaps"),
    [(30, 10, 70, True), (29, 10, 70, False), (30, 10, 69, False), (99, 30, 149, False)],
    ids=["turn", "waits less than the aim", "not there for long", "spent its time with loading"],
)
def test_models_that_do_not_fit_together_take_turns(waits, load_seconds, stayed, swaps):
    demands = [
        model("a", 0.9, load_seconds=load_seconds),
        model("b", queued=50, oldest_wait=waits, load_seconds=load_seconds),
    ]
    policy = Policy(slo_seconds=30, dwell_seconds=60)
    turn = moves(demands, [worker("w1", "a", since=NOW - stayed)], policy)
    assert turn == ([("unload", "a", "w1"), ("load", "b", "w1")] if swaps else [])


def test_the_model_that_was_there_first_gives_its_turn_up():
    workers = [worker("w1", "a", since=NOW - 200), worker("w2", "b", since=NOW - 300)]
    workers.append(worker("w3", "c", since=NOW - 250))
    demands = [model(name, 0.9) for name in "abc"] + [model("d", queued=9, oldest_wait=60)]
    assert moves(demands, workers) == [("unload", "b", "w2"), ("load", "d", "w2")]


def test_what_a_person_wants_to_stay_gives_nobody_a_turn():
    waiting = model("b", queued=9, oldest_wait=600)
    loaded, least = model("a", 0.9, wanted=Wanted.LOADED), model("a", 0.9, min_replicas=1)
    pinned = model("a", 0.9, pinned=frozenset({"w1"}))
    for held in (loaded, least, pinned):
        assert moves([held, waiting], [worker("w1", "a")]) == []
    assert moves([model("a", 0.9), waiting], [worker("w1", "a", fixed=True)]) == []


def test_a_server_that_still_loads_does_not_count_as_another():
    loading = worker("w2", "a", state=ModelState.LOADING)
    demands = [model("a", 0.1), model("b", queued=50)]
    assert ("unload", "a", "w1") not in moves(demands, [worker("w1", "a"), loading])


def test_a_new_worker_gets_models_at_once():
    workers = [worker("w1", "a"), worker("w2", "b"), worker("w3")]
    assert moves([model("a", 0.5), model("b", 0.9)], workers) == [("load", "b", "w3")]


def test_room_is_shared_evenly_among_models_without_jobs():
    placed = moves([model("a"), model("b")], [worker(f"w{n}") for n in range(4)], Policy())
    assert sorted(name for _, name, _ in placed) == ["a", "a", "b", "b"]


def test_a_draining_model_does_not_keep_its_successor_waiting():
    workers = [worker("w1", "a", state=ModelState.DRAINING), worker("w2", "a")]
    assert moves([model("a", 0.1), model("b", queued=1)], workers) == [("load", "b", "w1")]


def test_a_model_that_is_unloaded_by_a_person_is_never_loaded():
    demands = [model("a", queued=100, wanted=Wanted.UNLOADED), model("b")]
    plan = rebalance(fleet(demands, [worker("w1", "a", memory_mb=30)]), POLICY)
    assert [(m.action, m.model) for m in plan.moves] == [("unload", "a"), ("load", "b")]
    assert plan.blocked == {"a": "it is to stay unloaded"}


def test_a_model_that_is_loaded_by_a_person_has_a_replica_without_any_job():
    demands = [model("a", 0.5), model("b", wanted=Wanted.LOADED, idle_seconds=float("inf"))]
    workers = [worker("w1", "a"), worker("w2", "a")]
    assert ("load", "b", "w1") in moves(demands, workers, Policy(idle_seconds=60))


def test_an_idle_model_is_unloaded_only_if_the_policy_says_so():
    demands = [model("a", idle_seconds=500), model("b", idle_seconds=500, wanted=Wanted.LOADED)]
    workers = [worker("w1", "a", "b", memory_mb=20)]
    assert moves(demands, workers) == []
    assert moves(demands, workers, Policy(idle_seconds=400)) == [("unload", "a", "w1")]
    assert moves(demands, after(workers, [], 0), Policy(idle_seconds=600)) == []


def test_a_pinned_model_is_put_there_and_stays():
    demands = [model("a", 0.2), model("b", 0.1, pinned=frozenset({"w2"}))]
    workers = [worker("w1", "a"), worker("w2", "a")]
    assert moves(demands, workers) == [("unload", "a", "w2"), ("load", "b", "w2")]
    pinned = [model("a", 5.0), demands[1]]
    both = [worker("w1", "b"), worker("w2", "b")]
    assert moves(pinned, both) == [("unload", "b", "w1"), ("load", "a", "w1")]


def test_replicas_stay_between_the_least_and_the_most():
    workers = [worker(f"w{n}") for n in range(4)]
    assert len(moves([model("a", 9.0, max_replicas=2)], workers)) == 2
    three = [worker(f"w{n}", "a") for n in range(3)]
    assert [m[0] for m in moves([model("a", 9.0, max_replicas=2)], three)] == ["unload"]
    demands = [model("a", 0.1, min_replicas=2), model("b", 2.9)]
    full = [worker("w1", "a"), worker("w2", "a"), worker("w3", "b")]
    assert moves(demands, full) == []


def test_a_worker_with_a_list_of_its_own_is_left_alone_but_counts():
    fixed = [worker("w1", "b", fixed=True, memory_mb=99), worker("w2", "a"), worker("w3", "a")]
    assert moves([model("a", 0.1), model("b", 0.9)], fixed) == []
    assert [m[2] for m in moves([model("a", 0.1), model("b", 2.5)], fixed)] == ["w2", "w2"]


def test_a_worker_holds_no_more_models_than_it_may():
    demands = [model(name, 0.1) for name in "abc"]
    assert len(moves(demands, [worker("w1", memory_mb=99, max_models=2)])) == 2


def test_a_worker_where_a_load_failed_is_left_to_try_again_by_itself():
    failed = [worker("w1", "a", state=ModelState.FAILED)]
    plan = rebalance(fleet([model("a", 0.5, queued=5)], failed), POLICY)
    assert plan.moves == []
    assert plan.blocked == {"a": "it failed to load; w1 will try again"}


def test_what_failed_to_load_is_given_up_when_nobody_wants_it():
    failed = [worker("w1", "a", state=ModelState.FAILED)]
    given_up = [("unload", "a", "w1")]
    assert moves([model("a", 0.5, queued=5, wanted=Wanted.UNLOADED)], failed) == given_up
    idle = Policy(idle_seconds=60)
    assert moves([model("a", idle_seconds=100)], failed, idle) == given_up
    fixed = [replace(failed[0], fixed=True)]
    assert moves([model("a", 0.5, wanted=Wanted.UNLOADED)], fixed) == []


def test_a_model_that_fails_everywhere_is_not_tried_on_every_worker():
    demands = [model("a", 0.5, queued=5)]
    workers = [worker("w1", "a", state=ModelState.FAILED, since=NOW)]
    workers += [worker(f"w{n}") for n in range(2, 9)]
    assert moves(demands, workers) == [("load", "a", "w2")]
    workers[1] = worker("w2", "a", state=ModelState.FAILED, since=NOW)
    plan = rebalance(fleet(demands, workers), POLICY)
    assert plan.moves == []
    assert plan.blocked == {"a": "it failed to load; w1, w2 will try again"}


def test_a_model_that_fails_drives_no_other_out():
    demands = [model("a", queued=5), model("b", 0.1)]
    workers = [worker("w1", "b"), worker("w2", "b"), worker("w3", "b")]
    workers[2] = replace(
        workers[2], seats=workers[2].seats | worker("", "a", state=ModelState.FAILED).seats
    )
    assert moves(demands, workers) == []
    overdue = [replace(demands[0], oldest_wait=1e6), demands[1]]
    assert moves(overdue, workers) == []


def test_a_model_that_is_not_registered_any_more_is_unloaded():
    assert moves([], [worker("w1", "gone")]) == [("unload", "gone", "w1")]


def test_faster_workers_count_for_more():
    demands = [model("a", 3.0), model("b", 0.1)]
    slow = [worker("w1", "a"), worker("w2", "b"), worker("w3", "b")]
    assert moves(demands, slow) != []
    assert moves(demands, [replace(slow[0], speed=4.0), *slow[1:]]) == []


@pytest.mark.parametrize(
    ("demand", "replicas"),
    [
        (model("a", 2.5), 3),
        (model("a", 0.5, queued=60), 3),
        (model("a"), 1),
        (model("a", idle_seconds=float("inf")), 0),
        (model("a", idle_seconds=float("inf"), wanted=Wanted.LOADED), 1),
        (model("a", 2.5, wanted=Wanted.UNLOADED), 0),
        (model("a", 2.5, max_replicas=2), 2),
        (model("a", 2.5, min_replicas=5), 5),
    ],
)
def test_replicas_are_recommended_for_what_arrives_and_what_waits(demand, replicas):
    plan = rebalance(fleet([demand], []), POLICY)
    assert [each.replicas for each in plan.recommendations] == [replicas]


@pytest.mark.parametrize(("needs", "replicas"), [(1.4, 2), (3.0, 4), (100.0, 105)])
def test_many_replicas_need_less_to_spare_each_than_few(needs, replicas):
    plan = rebalance(fleet([model("a", needs)], []), Policy(utilisation=0.75, margin=0.5))
    assert [each.replicas for each in plan.recommendations] == [replicas]


def test_the_fleet_is_sized_for_the_work_and_for_the_memory():
    light = [model(name, 0.1) for name in "abcd"]
    assert rebalance(fleet(light, [worker("w1", memory_mb=20)]), POLICY).total_workers == 2
    assert rebalance(fleet([model("a", 2.2), model("b", 1.1)], []), POLICY).total_workers == 4
    assert rebalance(fleet([], []), POLICY).total_workers == 0


def test_of_too_many_replicas_those_that_are_not_ready_leave_first():
    workers = [worker("w1", "a"), worker("w2", "a", state=ModelState.LOADING), worker("w3", "a")]
    assert moves([model("a", max_replicas=2)], workers) == [("unload", "a", "w2")]


def test_nobody_who_is_worse_off_leaves_beside_the_one_who_makes_room():
    demands = [model("big", 1.3, memory_mb=20), model("hot", 2.0), model("idle")]
    workers = [worker("w1", "big", memory_mb=20), worker("w2", "idle", "hot", memory_mb=20)]
    assert moves(demands, [*workers, worker("w3", "hot")]) == []
    cold = replace(demands[1], arrival=0.01)
    assert len(moves([demands[0], cold, demands[2]], [*workers, worker("w3", "hot")])) == 3


def test_the_last_place_of_a_model_that_had_a_job_lately_is_left_to_it():
    """Else a model with a job now and then is loaded and unloaded in turn."""
    workers = [worker("w1", "rare", max_models=1), worker("w2", "hot", max_models=1)]
    hot = model("hot", 2.0, queued=100)
    for idle_seconds, planned in ((50.0, 0), (70.0, 2)):
        rare = model("rare", idle_seconds=idle_seconds)
        assert len(moves([rare, hot], workers, Policy(dwell_seconds=60))) == planned


def test_a_model_gives_a_place_though_what_it_keeps_is_beside_the_one_that_is_short():
    """There it has more room once the other is on two workers."""
    workers = [
        worker("w1", "calm", "rare", memory_mb=20),
        worker("w2", "calm", "hot", memory_mb=20),
    ]
    demands = [model("calm", 0.1), model("rare", 0.1), model("hot", 2.0)]
    assert moves(demands, workers) == [("unload", "calm", "w1"), ("load", "hot", "w1")]
