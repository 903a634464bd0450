"""The simulated fleet serves as its docstring says, and the policy does its work there."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nexus_jobs import cli
from nexus_jobs.errors import ConfigError
from nexus_jobs.fleet import Action
from nexus_jobs.forecast import Forecast
from nexus_jobs.placement import Move
from nexus_jobs.simulation.cluster import Cluster
from nexus_jobs.simulation.run import simulate
from nexus_jobs.simulation.traffic import Scenario, SimulatedModel, make_traffic

STEP = 10.0
BUSY = Scenario(workers=60, models=20, hours=8, load=0.8, seed=3)


def cluster(workers, *assigned):
    """Workers with two models of which each worker holds those named for it, all ready."""
    models = [SimulatedModel(name, 10_000, 30.0, 100, 100) for name in ("a", "b")]
    built = Cluster(workers, models, STEP)
    moves = [
        Move(Action.LOAD, name, f"w000{n}", "")
        for n, names in enumerate(assigned)
        for name in names
    ]
    built.apply(0.0, moves, at_once=True)
    built.settle(0.0)
    return built


def test_two_busy_models_share_a_worker_equally():
    assert cluster(1, "ab").serve(np.array([20.0, 20.0])) == pytest.approx([5, 5])


def test_what_one_model_does_not_need_goes_to_the_other():
    assert cluster(1, "ab").serve(np.array([2.0, 20.0])) == pytest.approx([2, 8])
    assert cluster(2, "ab", "b").serve(np.array([9.0, 20.0])) == pytest.approx([5, 15])


def test_what_is_not_served_waits_for_the_next_step():
    one = cluster(1, "a")
    assert one.serve(np.array([14.0, 3.0])) == pytest.approx([10, 0])
    assert one.backlog == pytest.approx([4, 3])
    assert one.serve(np.array([0.0, 0.0])) == pytest.approx([4, 0])


def test_a_load_takes_its_time_while_the_others_go_on():
    one = cluster(1, "a")
    one.apply(0.0, [Move(Action.LOAD, "b", "w0000", "")])
    assert one.serve(np.array([10.0, 10.0])) == pytest.approx([10, 0])
    one.settle(29.0)
    assert one.serve(np.array([0.0, 0.0])) == pytest.approx([0, 0])
    one.settle(30.0)
    assert one.serve(np.array([0.0, 0.0])) == pytest.approx([0, 10])


def test_a_model_that_is_unloaded_serves_nothing_more():
    one = cluster(1, "a")
    one.apply(0.0, [Move(Action.LOAD, "b", "w0000", "")])
    one.apply(10.0, [Move(Action.UNLOAD, "b", "w0000", ""), Move(Action.UNLOAD, "a", "w0000", "")])
    one.settle(30.0)
    assert one.serve(np.array([5.0, 5.0])) == pytest.approx([0, 0])
    assert not one.loads[0].seats


def test_traffic_has_the_load_that_was_asked_for_and_repeats_with_its_seed():
    traffic = make_traffic(BUSY)
    seconds = np.array([model.worker_seconds for model in traffic.models])
    worked = (traffic.jobs * seconds).sum() / (BUSY.workers * BUSY.hours * 3600)
    assert worked == pytest.approx(0.8, rel=0.02)
    assert (make_traffic(BUSY).jobs == traffic.jobs).all()


def test_the_policy_beats_a_static_assignment_by_far_and_keeps_up_with_the_oracle():
    outcomes = {name: simulate(BUSY, name) for name in ("policy", "oracle", "static")}
    assert outcomes["policy"].p99 * 10 < outcomes["static"].p99
    assert outcomes["policy"].p99 < 1.3 * outcomes["oracle"].p99
    assert outcomes["policy"].mean * 10 < outcomes["static"].mean
    assert outcomes["static"].loads == 0


def test_the_policy_moves_less_than_least_loaded_without_hysteresis():
    policy, chasing = simulate(BUSY, "policy"), simulate(BUSY, "least-loaded")
    assert policy.p99 < chasing.p99
    assert policy.loads < chasing.loads


def test_a_forecast_follows_a_level_and_a_trend():
    steady = rising = Forecast(2.0)
    for second in range(0, 600, 10):
        steady = steady.observe(20, 10)
        rising = rising.observe(10 * (2 + 0.01 * (second + 5)), 10)
    assert steady.ahead(60) == pytest.approx(2.0)
    assert rising.ahead(0) == pytest.approx(8, rel=0.05)
    assert rising.ahead(60) == pytest.approx(8.6, rel=0.05)
    falling = rising.observe(0, 60)
    assert 0 <= falling.ahead(600) < rising.level


def seen(*looks):
    """A forecast that expected a hundred events in ten seconds, after looks of that length."""
    forecast = Forecast(10.0)
    for events in looks:
        forecast = forecast.observe(events, 10)
    return forecast


def test_a_rate_that_has_plainly_changed_is_believed_after_two_looks():
    assert seen(400).level < 20
    assert seen(400, 400).level > 25
    assert seen(400, 400, 400).level > 35
    assert seen(400, 400, 0, 0).level < seen(400, 400).level / 2


def test_chance_or_one_client_that_sends_many_at_once_is_no_burst():
    assert seen(115, 88, 110, 95).level == pytest.approx(10, rel=0.05)
    assert seen(400, 100, 400, 100).ahead(60) < 30


def test_what_is_seen_in_a_moment_is_gathered():
    second_by_second = Forecast(10.0)
    for _ in range(20):
        second_by_second = second_by_second.observe(20, 1)
    five_by_five = Forecast(10.0)
    for _ in range(4):
        five_by_five = five_by_five.observe(100, 5)
    assert second_by_second == five_by_five


def test_no_trend_leads_further_than_to_twice_the_level():
    rising = seen(400, 800, 1600)
    assert rising.ahead(600) == pytest.approx(2 * rising.level)


def test_the_command_prints_one_row_for_each_assignment(capsys, monkeypatch):
    size = ["--workers", "8", "--models", "4", "--hours", "0.5"]
    monkeypatch.setattr("sys.argv", ["nexus", "simulate", *size, "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    outcomes = json.loads(capsys.readouterr().out)
    assert set(outcomes) == {"policy", "oracle", "least-loaded", "static"}
    assert 0.6 < outcomes["policy"]["utilisation"] < 0.9
    monkeypatch.setattr("sys.argv", ["nexus", "simulate", *size, "--policy", "static"])
    with pytest.raises(SystemExit):
        cli.main()
    header, row = capsys.readouterr().out.splitlines()
    assert header.split("\t")[:2] == ["assignment", "utilisation"]
    assert row.startswith("static\t")


def test_the_command_knows_the_assignments_by_name():
    with pytest.raises(ConfigError, match="oracle"):
        cli.simulate.simulate(policy=["orcle"])
