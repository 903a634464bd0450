"""When a worker takes its ticket consumer for stalled, and when it must not."""

import pytest

from nexus_jobs.adapters.memory_queue import MemoryTickets
from nexus_jobs.errors import QueueUnavailable
from nexus_jobs.telemetry import consumer_stalls
from workers.consumer_watch import STALLED_SECONDS, ConsumerWatch, StallPolicy
from workers.tickets import Tickets

QUIET = {"waiting": True, "held": 0, "taken": 0}


def verdicts(*looks: dict[str, int]) -> list[bool]:
    """What a policy with a patience of three seconds says to looks a second apart."""
    policy = StallPolicy(3.0)
    return [policy.stalled(float(at), **(QUIET | look)) for at, look in enumerate(looks)]


def test_tickets_that_wait_for_long_while_none_comes_in_are_a_stall():
    assert verdicts({}, {}, {}, {}) == [False, False, False, True]


def test_after_a_restart_the_patience_starts_again():
    assert verdicts(*[{}] * 8) == [False, False, False, True] * 2


@pytest.mark.parametrize(
    "well",
    [
        pytest.param({"waiting": False}, id="no ticket waits"),
        pytest.param({"held": 1}, id="tickets wait in it, since its batches are full"),
        pytest.param({"taken": 1}, id="a ticket came in"),
    ],
)
def test_one_sign_of_life_starts_the_patience_again(well):
    later = {"taken": well.get("taken", 0)}
    assert verdicts({}, {}, {}, well, later, later, later, later) == [False] * 7 + [True]


def test_a_full_or_idle_worker_is_never_stalled():
    assert not any(verdicts(*[{"held": 2}] * 100))
    assert not any(verdicts(*[{"waiting": False}] * 100))


def test_a_worker_that_shares_a_busy_queue_is_not_stalled():
    assert not any(verdicts(*({"taken": look // 2} for look in range(100))))


class Watched:
    """A watch over tickets in memory, with a clock of its own."""

    def __init__(self):
        self.now, self.restarts = 0.0, 0
        self.tickets = MemoryTickets()
        self.here = Tickets(lambda *_: True, of_a_model=2, of_all=2, patience=1.0)
        self.watch = ConsumerWatch(
            lambda: ["a", "b"],
            queue=self.tickets,
            here=self.here,
            restart=self._restart,
            clock=lambda: self.now,
        )

    def _restart(self):
        self.restarts += 1

    def pass_by(self, seconds):
        for _ in range(int(seconds)):
            self.now += 1.0
            self.watch.look()


def test_a_stalled_consumer_is_restarted_and_counted():
    watched = Watched()
    before = consumer_stalls._value.get()
    watched.tickets.ring({"b": 1})
    watched.pass_by(STALLED_SECONDS)
    assert watched.restarts == 0
    watched.pass_by(2)
    assert watched.restarts == 1
    assert consumer_stalls._value.get() == before + 1


def test_tickets_of_other_models_are_not_its_business():
    watched = Watched()
    watched.tickets.ring({"c": 1})
    watched.pass_by(5 * STALLED_SECONDS)
    assert watched.restarts == 0


def test_a_held_ticket_shows_that_the_consumer_is_well():
    watched = Watched()
    watched.tickets.ring({"a": 1})
    watched.here.take("a", 1, lambda: None, lambda *_: None)
    watched.pass_by(5 * STALLED_SECONDS)
    assert watched.restarts == 0


def test_a_redis_that_is_away_is_no_stall(monkeypatch):
    def away(_model):
        raise QueueUnavailable("away")

    watched = Watched()
    monkeypatch.setattr(watched.tickets, "waiting", away)
    watched.pass_by(5 * STALLED_SECONDS)
    assert watched.restarts == 0
