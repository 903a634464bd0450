"""Which models stand on which workers: what the rebalancing policy is told, and what it answers.

Times are seconds on one clock, the fleet's `now`. A *worker's worth* is what one worker of speed 1
does when it runs nothing else: the unit in which models' needs are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nexus_jobs.fleet import Action, ModelState, Wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One model: what is asked of it, what it costs, and what a person has decided about it."""

    model: str
    queued: int = 0
    """Jobs that could start now."""
    running: int = 0
    arrival: float = 0.0
    """Jobs a second that are expected by the time a load decided now would be ready."""
    tokens_per_job: float = 128.0
    """Mean length of an answer."""
    tokens_per_second: float = 500.0
    """What a worker of speed 1 makes with a full batch and no other model."""
    oldest_wait: float | None = None
    """None if nothing waits."""
    idle_seconds: float = 0.0
    """Since it last had a job; infinite if it never had one."""
    memory_mb: float = 0.0
    load_seconds: float = 30.0
    """From the decision to the first job, warm-up included."""
    wanted: Wanted = Wanted.AUTO
    """`loaded` keeps at least one replica, `unloaded` none, whatever waits."""
    pinned: frozenset[str] = frozenset()
    """Workers on which it must be."""
    min_replicas: int = 0
    max_replicas: int | None = None


@dataclass(frozen=True, slots=True)
class Seat:
    """A model assigned to a worker, and since when."""

    state: ModelState
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    """A live worker and the models assigned to it.

    A draining seat takes no memory here: a worker unloads before it loads. Nor does a failed one.
    """

    id: str
    memory_mb: float = float("inf")
    max_models: int | None = None
    speed: float = 1.0
    """How many tokens it makes in the time in which the worker that rates refer to makes one."""
    fixed: bool = False
    """It was started with a list of its own: its models count, and are never changed."""
    seats: Mapping[str, Seat] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything that a decision is made from."""

    now: float
    demands: Sequence[Demand]
    workers: Sequence[WorkerLoad]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What to aim for, and how readily to move."""

    slo_seconds: float = 30.0
    """Within this time a backlog should be worked off."""
    utilisation: float = 0.75
    """The part of a worker to plan with; the rest is for what no forecast knows."""
    margin: float = 0.5
    """That rest need not be more than so many square roots of what arrives, in workers' worths:
    many workers together need less of it each (square-root staffing, see Halfin and Whitt,
    Operations Research 1981).
    """
    reserve: float = 2.0
    """How many more workers than it needs a model should be on, in square roots likewise: when it
    has a burst, it is there. That takes memory only, as the models on a worker share its time.
    """
    dwell_seconds: float = 60.0
    """How long a model stays on a worker at least."""
    hysteresis: float = 0.1
    """How much worse off a model must be than the one that makes room for it, even afterwards."""
    reserve_hysteresis: float = 1.0
    """The same where it only lacks a reserve, for which nobody waits yet; and by how much more a
    reserve may be short than the one whose jobs wait for its place.
    """
    idle_seconds: float | None = None
    """A model without jobs for so long is unloaded; None: only when its room is needed."""


@dataclass(frozen=True, slots=True)
class Move:
    """One change of a worker's list. `reason` is a sentence, with the figures, for an operator."""

    action: Action
    model: str
    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class Recommendation:
    """How many replicas a model would have if workers were unlimited.

    `arriving` and `waiting` are workers' worths: for the jobs to come, and for the backlog.
    """

    model: str
    replicas: int
    arriving: float
    waiting: float

    @property
    def reason(self) -> str:
        return (
            f"{self.model}: what arrives takes {self.arriving:.2f} workers and the backlog "
            f"{self.waiting:.2f} more, so {self.replicas}"
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What to change now, and how large the fleet should be.

    On each worker the unloads come before the loads. `blocked` says of each model that has jobs
    but no place why it gets none.
    """

    moves: Sequence[Move] = ()
    recommendations: Sequence[Recommendation] = ()
    total_workers: int = 0
    blocked: Mapping[str, str] = field(default_factory=dict)
