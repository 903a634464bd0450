"""The working copy in which a rebalancing is tried out: who sits where, and how busy that makes
each worker.

Loads are estimated as if each model spread its need over its seats to even them out: first
equally, then once more in proportion to the room that this would leave (two rounds of
proportional fitting). A model's *strain* is the mean load of the workers that it sits on, so it is
over 1 where those cannot give what is asked; its *exposure* is over 1 where it sits on fewer than
it should in case of a burst. The larger of the two is its *pressure*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from math import inf, sqrt
from typing import Final, NamedTuple

from nexus_jobs.fleet import ModelState, Wanted
from nexus_jobs.placement import Demand, Fleet, Policy, WorkerLoad

LOADING, READY, FAILED = ModelState.LOADING, ModelState.READY, ModelState.FAILED
TURN_LOADS: Final = 4
"""Models that take turns run for so many times what a load takes: four fifths of the time."""
SOON_SECONDS: Final = 10.0
"""A model that gets a job so often has traffic, even if it is quick to load."""
LEAST_NEED: Final = 1e-3
"""A worker's worth; lets models without jobs be compared by their seats."""


class Limits(NamedTuple):
    """The most that a model may be left with when it gives up a seat, and the fewest seats; and how
    many seconds it has been there at least."""

    strain: float = inf
    exposure: float = inf
    seats: int = 0
    stayed: float = 0.0


NO_LIMITS: Final = Limits()


class Table:
    """A worker with the models that are to be on it."""

    __slots__ = ("held", "id", "load", "places", "room", "speed", "spread", "worker")

    def __init__(self, worker: WorkerLoad) -> None:
        self.id = worker.id
        self.worker = worker
        self.speed = worker.speed
        self.held: dict[str, Guest] = {}
        self.room = worker.memory_mb
        self.places = inf if worker.max_models is None else worker.max_models
        self.load = self.spread = 0.0

    def fits(self, guest: Guest) -> bool:
        return guest.memory <= self.room and self.places >= 1


class Guest:
    """A model with its needs, in workers' worths, and the tables it sits at."""

    __slots__ = (
        "arriving", "backlog", "busy", "cover", "demand", "failed", "floor", "idle", "load",
        "memory", "most", "name", "need", "ready", "slowest", "speed", "tables", "waiting",
    )  # fmt: skip

    def __init__(self, demand: Demand, policy: Policy) -> None:
        self.demand = demand
        self.name = demand.model
        self.memory = demand.memory_mb
        per_job = demand.tokens_per_job / demand.tokens_per_second
        self.backlog = demand.queued * per_job
        """Seconds of one worker."""
        expected = demand.arrival * per_job
        self.arriving = min(
            expected / policy.utilisation, expected + policy.margin * sqrt(expected)
        )
        self.cover = expected + policy.reserve * sqrt(expected)
        """On how many workers, of speed 1, it should sit."""
        self.waiting = self.backlog / policy.slo_seconds
        self.need = max(LEAST_NEED, self.arriving + self.waiting)
        wanted = 1 if demand.wanted is Wanted.LOADED else 0
        self.floor = max(wanted, demand.min_replicas, len(demand.pinned))
        soon = demand.arrival * max(demand.load_seconds, SOON_SECONDS) >= 1
        lately = demand.idle_seconds < policy.dwell_seconds
        self.busy = demand.queued > 0 or demand.running > 0 or soon or lately
        """It has jobs or had some lately, or expects some before it could be back, or soon."""
        limit = policy.idle_seconds
        self.idle = not self.busy and limit is not None and demand.idle_seconds >= limit
        self.most = self._most()
        self.tables: list[Table] = []
        self.failed: list[Table] = []
        """Those that it could not be loaded on; they try again by themselves."""
        self.ready = 0
        self.speed = self.load = 0.0
        self.slowest = 0.0
        """The least speed among its workers."""

    def _most(self) -> float:
        if self.demand.wanted is Wanted.UNLOADED:
            return 0
        if self.idle:
            return self.floor
        return (
            inf if self.demand.max_replicas is None else max(self.demand.max_replicas, self.floor)
        )

    @property
    def strain(self) -> float:
        return self.load / self.speed if self.tables else inf

    @property
    def exposure(self) -> float:
        return self.cover / self.speed if self.tables else inf

    @property
    def pressure(self) -> float:
        return max(self.strain, self.exposure)

    @property
    def lacks_reserve(self) -> bool:
        """Whether it lacks nothing else."""
        enough = self.busy and len(self.tables) >= self.floor
        return enough and self.strain <= 1 < self.exposure

    def relief(self, speed: float) -> float:
        """By how much each of its workers gets less busy if it gets one more of that speed."""
        return self.need / self.speed - self.need / (self.speed + speed) if self.tables else 0.0

    @property
    def least_without(self) -> float:
        """A bound: no loss of a seat on a worker less busy than this leaves less strain."""
        if not self.tables:
            return inf
        return (self.load + self.need * self.slowest / self.speed) / self.speed if self.busy else 0

    @property
    def least_exposure(self) -> float:
        """The exposure that the loss of its slowest seat leaves, the least of all."""
        if not self.busy:
            return 0.0
        return self.cover / (self.speed - self.slowest) if self.speed > self.slowest else inf


class Seating:
    """Every model's seats and every worker's load; changes keep the estimates roughly right."""

    def __init__(self, fleet: Fleet, policy: Policy) -> None:
        self.now = fleet.now
        self.policy = policy
        self.guests = {demand.model: Guest(demand, policy) for demand in fleet.demands}
        self.tables = [Table(worker) for worker in fleet.workers]
        self.unknown: list[tuple[str, Table]] = []
        """Models on workers that nobody asks for any more."""
        for table in self.tables:
            self._seat_all(table)
        self._weigh()

    def _seat_all(self, table: Table) -> None:
        held = table.held
        for name, seat in table.worker.seats.items():
            guest, state = self.guests.get(name), seat.state
            if state is READY or state is LOADING:
                if guest is None:
                    self.unknown.append((name, table))
                    continue
                held[name] = guest
                guest.tables.append(table)
                if state is READY:
                    guest.ready += 1
            elif guest is not None and state is FAILED:
                guest.failed.append(table)
        table.room -= sum([guest.memory for guest in held.values()])
        table.places -= len(held)

    def _weigh(self) -> None:
        share: dict[str, float] = {}
        for guest in self.guests.values():
            speeds = [table.speed for table in guest.tables]
            guest.speed, guest.slowest = sum(speeds), min(speeds, default=0.0)
            share[guest.name] = guest.need / guest.speed if guest.tables else 0.0
        for table in self.tables:
            table.spread = LEAST_NEED + sum([share[name] for name in table.held])
        for guest in self.guests.values():
            if guest.tables:
                room = sum([table.speed / table.spread for table in guest.tables])
                share[guest.name] = guest.need / room
        for table in self.tables:
            table.load = sum([share[name] for name in table.held]) / table.spread
        for guest in self.guests.values():
            guest.load = sum([table.speed * table.load for table in guest.tables])

    def may_sit(self, guest: Guest, table: Table) -> bool:
        """Whether the model may be put there, if there is room. Says nothing of the room."""
        return guest.name not in table.held and not table.worker.fixed and table not in guest.failed

    def may_leave(self, guest: Guest, table: Table) -> bool:
        """Whether nothing but its usefulness keeps the model there."""
        stayed = self._has_stayed(guest, table, self.policy.dwell_seconds)
        return stayed and not self.strands(guest, table)

    def _has_stayed(self, guest: Guest, table: Table, seconds: float) -> bool:
        """Whether the model has been there for so long, and nobody wants it to stay."""
        seat = table.worker.seats.get(guest.name)
        return (
            seat is not None
            and seat.since + seconds <= self.now
            and not table.worker.fixed
            and table.id not in guest.demand.pinned
            and len(guest.tables) > guest.floor
        )

    def strands(self, guest: Guest, table: Table) -> bool:
        """Whether leaving would leave jobs of the model without a ready server."""
        return guest.busy and guest.ready <= self.is_ready(guest, table)

    def is_ready(self, guest: Guest, table: Table) -> bool:
        seat = table.worker.seats.get(guest.name)
        return seat is not None and seat.state is READY

    def strain_without(self, guest: Guest, table: Table) -> float:
        """The model's strain once the rest of its seats have taken over its part there."""
        if not guest.busy:
            return 0.0
        speed = table.speed
        if guest.speed <= speed:
            return inf
        part = guest.need / guest.speed
        return (guest.load - speed * (table.load - part)) / (guest.speed - speed)

    def can_spare(self, guest: Guest, table: Table, heir: Guest, limits: Limits) -> bool:
        """Whether the model stays within the limits if the heir takes its seat there, and so has
        less to do where both of them sit."""
        kept = guest.speed - table.speed
        if len(guest.tables) <= limits.seats or not self._has_stayed(guest, table, limits.stayed):
            return False
        if guest.busy and kept > 0 and guest.cover > limits.exposure * kept:
            return False
        without = self.strain_without(guest, table)
        if without <= limits.strain or kept <= 0:
            return without <= limits.strain
        relief = heir.relief(table.speed) / kept
        if without - relief * min(heir.speed, kept) > limits.strain:
            return False  # and so the sum below is spared, mostly
        shared = sum([other.speed for other in guest.tables if heir.name in other.held])
        return without - relief * shared <= limits.strain

    def sit(self, guest: Guest, table: Table) -> None:
        speed = table.speed
        guest.load = (guest.load if guest.tables else guest.need) + speed * table.load
        guest.tables.append(table)
        guest.speed += speed
        guest.slowest = min(guest.slowest, speed)
        part = guest.need / guest.speed
        for other in table.held.values():
            other.load += speed * part
        table.held[guest.name] = guest
        table.load += part
        table.room -= guest.memory
        table.places -= 1

    def leave(self, guest: Guest, table: Table) -> None:
        speed = table.speed
        part = min(table.load, guest.need / guest.speed)
        guest.load -= speed * (table.load - part)
        guest.speed -= speed
        guest.tables.remove(table)
        guest.ready -= self.is_ready(guest, table)
        del table.held[guest.name]
        for other in table.held.values():
            other.load -= speed * part
        table.load -= part
        table.room += guest.memory
        table.places += 1

    def victims(
        self, guest: Guest, table: Table, first: Guest, limits: Limits
    ) -> list[Guest] | None:
        """Who leaves so that `guest` fits, `first` among them; None if that is not possible
        within the limits.
        """
        others = (
            other
            for other in self._by_usefulness(table)
            if other is not first and self.can_spare(other, table, guest, limits)
        )
        return _first_enough(guest, table, chain([first], others))

    def turns_over(self, guest: Guest, table: Table) -> list[Guest] | None:
        """Who leaves so that `guest` fits, those who came first; None if that is not possible.

        Each has been there so long that most of the time went to its jobs and not to its load.
        """
        over = (other for other in table.held.values() if self._had_turn(other, table))
        in_order = sorted(over, key=lambda other: table.worker.seats[other.name].since)
        return _first_enough(guest, table, in_order)

    def _had_turn(self, guest: Guest, table: Table) -> bool:
        load = guest.demand.load_seconds
        return self._has_stayed(
            guest, table, load + max(self.policy.dwell_seconds, TURN_LOADS * load)
        )

    def _by_usefulness(self, table: Table) -> Iterator[Guest]:
        leaving: Iterable[Guest] = (g for g in table.held.values() if self.may_leave(g, table))
        return iter(sorted(leaving, key=lambda g: (self.strain_without(g, table), g.name)))


def _first_enough(guest: Guest, table: Table, leaving: Iterable[Guest]) -> list[Guest] | None:
    """The first of those whose leaving makes room enough; None if all of them do not."""
    room, places, found = table.room, table.places, []
    for other in leaving:
        found.append(other)
        room, places = room + other.memory, places + 1
        if room >= guest.memory and places >= 1:
            return found
    return None
