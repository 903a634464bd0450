"""What the scheduler promises when its store is late or away, or something else goes wrong."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nexus_jobs.config import JobSettings
from nexus_jobs.errors import Conflict, StoreUnavailable
from workers.scheduler import Rounds

LEASE = 15.0
HEARTBEAT = LEASE / 3


class Day:
    """A made-up day: a clock, and a store that takes its time or fails."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.silence = 0.0
        self.error: Exception | None = None
        self.leases: list[bool] = []
        self.decided = 0
        part = SimpleNamespace(round=self.repair), SimpleNamespace(round=self.decide)
        self.rounds = Rounds(*part, self, JobSettings(lease_seconds=LEASE), lambda: self.now)

    def clock(self) -> float:
        self.now += self.silence
        return self.now

    def repair(self, *, leases: bool) -> None:
        self.leases.append(leases)
        if self.error:
            raise self.error

    def decide(self) -> None:
        self.decided += 1

    def takes_leases(self, *, after: float = 0.0) -> bool:
        """Whether a round after so many seconds takes lapsed leases back."""
        self.now += after
        self.rounds.go()
        return self.leases[-1]


@pytest.fixture
def day() -> Day:
    return Day()


def test_leases_are_left_alone_until_every_worker_had_time_for_a_heartbeat(day):
    assert not day.takes_leases()
    assert not day.takes_leases(after=HEARTBEAT - 1)
    assert day.takes_leases(after=1)


def test_a_store_that_froze_for_longer_than_a_heartbeat_gives_leases_one_more_term(day):
    day.now += HEARTBEAT
    day.silence = HEARTBEAT + 1
    assert not day.takes_leases()
    day.silence = 0.0
    assert not day.takes_leases(after=LEASE - 1)
    assert day.takes_leases(after=1)


def test_a_store_that_is_a_little_late_changes_nothing(day):
    day.now += HEARTBEAT
    day.silence = HEARTBEAT
    assert day.takes_leases()


def test_a_store_that_was_away_gives_leases_one_more_term(day):
    day.now += HEARTBEAT
    day.error = StoreUnavailable("away")
    day.rounds.go()
    day.error = None
    assert not day.takes_leases(after=LEASE - 1)
    assert day.takes_leases(after=1)


def test_an_unforeseen_error_ends_one_round_and_keeps_no_lease(day):
    day.error = Conflict("two at once")
    day.rounds.go()
    assert day.takes_leases(after=HEARTBEAT)
    assert day.decided == 0
    day.error = None
    assert day.takes_leases()
    assert day.decided == 1
