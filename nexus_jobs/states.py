"""The states that a job can be in, and the one table of legal transitions.

    queued --claim--> running --succeed--> succeeded
      ^                  |-----fail------> failed       (the request itself cannot be run)
      |<----requeue------|                              (lease lapsed or engine error)
      |<----release------|                              (handed back unharmed, attempt not counted)
      |                  |-----bury------> dead         (attempts spent)
      |--cancel--> cancelled <--cancel---|
      |--expire--> expired                              (expires_at passed before the start)

Terminal states never change by themselves. A person may replay what failed or is dead: it is
queued again, with as many attempts as a new job.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  # committed, waiting for a claim
    RUNNING = "running"  # under a lease
    SUCCEEDED = "succeeded"  # has a row in `results`
    FAILED = "failed"  # the request is at fault; running it again would fail again
    DEAD = "dead"  # the platform gave up after `max_attempts`
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # not started before `expires_at`


class Event(StrEnum):
    """What can happen to a job."""

    CLAIM = "claim"
    SUCCEED = "succeed"
    FAIL = "fail"
    REQUEUE = "requeue"
    RELEASE = "release"
    BURY = "bury"
    CANCEL = "cancel"
    EXPIRE = "expire"
    REPLAY = "replay"


TRANSITIONS: Final[Mapping[Event, tuple[frozenset[State], State]]] = {
    Event.CLAIM: (frozenset({State.QUEUED}), State.RUNNING),
    Event.SUCCEED: (frozenset({State.RUNNING}), State.SUCCEEDED),
    Event.FAIL: (frozenset({State.RUNNING}), State.FAILED),
    Event.REQUEUE: (frozenset({State.RUNNING}), State.QUEUED),
    Event.RELEASE: (frozenset({State.RUNNING}), State.QUEUED),
    Event.BURY: (frozenset({State.RUNNING}), State.DEAD),
    Event.CANCEL: (frozenset({State.QUEUED, State.RUNNING}), State.CANCELLED),
    Event.EXPIRE: (frozenset({State.QUEUED}), State.EXPIRED),
    Event.REPLAY: (frozenset({State.FAILED, State.DEAD}), State.QUEUED),
}
"""event -> (states it may start from, state it leads to)"""

TERMINAL: Final = frozenset(State) - {
    source
    for event, (sources, _) in TRANSITIONS.items()
    for source in sources
    if event is not Event.REPLAY
}
"""States that nothing but a person's replay leads out of."""


def sources(event: Event) -> frozenset[State]:
    """The states in which `event` may happen."""
    return TRANSITIONS[event][0]


def target(event: Event) -> State:
    """The state that `event` leads to."""
    return TRANSITIONS[event][1]
