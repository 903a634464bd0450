"""Random faults under load: nothing lost, nothing twice, nothing contradictory."""

from __future__ import annotations

import random
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from nexus_jobs.chaos.campaign import Campaign
from nexus_jobs.chaos.fault import NothingToBreak
from nexus_jobs.chaos.run import run, wanted
from nexus_jobs.chaos.stack import NEXUS, until
from nexus_jobs.errors import ConfigError


class Recorded:
    """A fault that notes what is done with it."""

    seconds = (0.0, 0.0)

    def __init__(self, name: str, failing: BaseException | None = None) -> None:
        self.name = name
        self.failing = failing
        self.done: list[str] = []

    def inject(self, chance: random.Random) -> None:
        self.done.append("inject")
        if self.failing:
            raise self.failing

    def heal(self) -> None:
        self.done.append("heal")


def test_sqlite_keeps_its_promise_whatever_breaks() -> None:
    said: list[str] = []
    report = run(40, rate=200, database="sqlite", seed=4, say=said.append)
    told = "\n".join([*said, *report.lines()])
    assert report.kept, told
    assert report.odd == {}, told
    assert sum(report.injected.values()) >= 5, told
    assert sum(report.verdict.states.values()) > 1000, told


def test_postgresql_keeps_its_promise_and_the_command_reports_it() -> None:
    command = [*NEXUS, "chaos", "--minutes", "0.2", "--seed", "7", "--database", "postgresql"]
    done = subprocess.run(
        [*command, "--only", "postgresql", "--only", "worker killed"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost 0, duplicated 0, contradictory 0" in done.stdout
    assert "0 injected" not in done.stdout


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [*NEXUS, "chaos", "--minutes", "5", "--rate", "20", "--only", "redis emptied"]
    said = tmp_path / "said"
    with said.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as run:
        try:
            until(lambda: "s  redis emptied" in said.read_text(), timeout=60)
            family = psutil.Process(run.pid).children(recursive=True)
            assert len(family) >= 5
            run.send_signal(signal.SIGTERM)
            assert run.wait(timeout=60) != 0
        finally:
            run.kill()
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert "Traceback" not in said.read_text()


def test_the_same_seed_deals_the_same_faults_and_each_before_any_comes_again(monkeypatch) -> None:
    monkeypatch.setattr("nexus_jobs.chaos.campaign.BREATH", (0.0, 0.001))

    def dealt(seed: int) -> list[str]:
        said: list[str] = []
        faults = [Recorded(name) for name in "abcdef"]
        Campaign(faults, seed=seed, say=said.append).run(0.1)
        return [line.split()[-1] for line in said[:12]]

    first = dealt(1)
    assert first == dealt(1)
    assert sorted(first) == sorted("abcdef" * 2)
    assert first != dealt(2)


def test_what_cannot_be_broken_is_not_counted_and_all_is_healed_in_the_end(monkeypatch) -> None:
    monkeypatch.setattr("nexus_jobs.chaos.campaign.BREATH", (0.0, 0.001))
    absent, broken = Recorded("absent", NothingToBreak()), Recorded("broken", ZeroDivisionError())
    campaign = Campaign([absent, broken], seed=1, say=lambda line: None)
    with pytest.raises(ZeroDivisionError):
        campaign.run(10)
    assert campaign.injected == {}
    assert absent.done[-1] == broken.done[-1] == "heal"


def test_a_fault_that_does_not_exist_is_refused_with_the_names_of_those_that_do() -> None:
    there = [Recorded("worker killed"), Recorded("api killed"), Recorded("disk full")]
    assert wanted(there, []) == there
    assert wanted(there, ["killed"]) == there[:2]
    with pytest.raises(ConfigError, match="worker killed, api killed, disk full"):
        wanted(there, ["earthquake"])
