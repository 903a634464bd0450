"""Decides which models each worker should run: a snapshot of the fleet in, a plan out.

What a model needs is what arrives, with some spare, and what works off its backlog in time. Room
that is free is always used, so that where everything fits, everything is loaded everywhere and
nothing ever moves. A model that is short gets a seat of the model that is best off, if that one
stays better off by far, and if the queue would last longer than the load takes; one that a burst
would find on too few workers gets a seat in reserve, if another has twice as many. That is max-min
fairness with a price on moves (application placement, see Tang et al., WWW 2007). The last place of
a model with jobs is left to it, until a model that has none at all waited too long: then they take
turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from math import ceil, inf, isfinite
from typing import Final

from nexus_jobs.fleet import Action, Wanted
from nexus_jobs.placement import Fleet, Move, Plan, Policy, Recommendation
from nexus_jobs.seating import NO_LIMITS, Guest, Limits, Seating, Table

TRIES: Final = 2
"""A model that fails on so many workers and is ready on none is itself to blame: no others try."""
RESERVE_DONORS: Final = 5
"""For a reserve only so many of those that are best off are asked; more is not worth the time."""
RESERVE_DWELLS: Final = 5
"""For a reserve a seat is taken only when it was kept for so many times the dwell time: the rates
of models with few jobs are never known well, and nobody waits.
"""


def rebalance(fleet: Fleet, policy: Policy) -> Plan:
    """What to load and unload now. The same snapshot always gives the same plan."""
    decision = _Decision(fleet, policy)
    decision.clear()
    decision.pin()
    decision.fill()
    decision.share()
    decision.take_turns()
    guests = decision.seating.guests.values()
    recommendations = [_recommend(guest, policy) for guest in guests]
    return Plan(
        moves=list(_net(decision.moves)),
        recommendations=recommendations,
        total_workers=_total(decision.seating, recommendations),
        blocked={g.name: _obstacle(g) for g in guests if g.demand.queued and not g.tables},
    )


class _Decision:
    """Collects the moves, in the order in which the seats become free and are taken."""

    def __init__(self, fleet: Fleet, policy: Policy) -> None:
        self.seating = Seating(fleet, policy)
        self.moves: list[Move] = []
        self._policy = policy
        self._spare: dict[str, list[Table]] = {}
        self._fastest = max((table.speed for table in self.seating.tables), default=0.0)
        self._loadable = [g for g in self.seating.guests.values() if g.most > 0]
        self._loadable.sort(key=lambda guest: (guest.memory, guest.name))

    def clear(self) -> None:
        """Unload what nobody wants any more, what is idle, and what is too many."""
        for name, table in self.seating.unknown:
            if not table.worker.fixed:
                self.moves.append(Move(Action.UNLOAD, name, table.id, f"{name} is not registered"))
        for guest in self.seating.guests.values():
            if len(guest.tables) > guest.most:
                self._trim(guest)
            if guest.most == 0:
                self._give_up(guest)

    def _give_up(self, guest: Guest) -> None:
        """Have nobody try again to load what is not needed any more."""
        for table in guest.failed:
            if not table.worker.fixed:
                self.moves.append(Move(Action.UNLOAD, guest.name, table.id, _excess(guest)))

    def _trim(self, guest: Guest) -> None:
        """Those that are not ready first, then those on busy workers."""
        ready = self.seating.is_ready
        for table in sorted(guest.tables, key=lambda table: (ready(guest, table), -table.load)):
            if len(guest.tables) > guest.most and self._may_trim(guest, table):
                self._unload(guest, table, _excess(guest))

    def _may_trim(self, guest: Guest, table: Table) -> bool:
        if guest.demand.wanted is Wanted.UNLOADED:
            return not table.worker.fixed
        if guest.idle:
            return self.seating.may_leave(guest, table)
        held = table.worker.fixed or table.id in guest.demand.pinned
        return not held and not self.seating.strands(guest, table)

    def pin(self) -> None:
        """Put models where a person wants them, whoever has to leave for it."""
        tables = {table.id: table for table in self.seating.tables}
        for guest in self._loadable:
            for worker in sorted(guest.demand.pinned & tables.keys()):
                table = tables[worker]
                if not self.seating.may_sit(guest, table):
                    continue
                if table.fits(guest) or self._make_room(guest, table):
                    self._load(guest, table, f"{guest.name} is pinned to {worker}")

    def _make_room(self, guest: Guest, table: Table) -> bool:
        for first in list(table.held.values()):
            if self.seating.may_leave(first, table):
                leaving = self.seating.victims(guest, table, first, NO_LIMITS)
                if leaving is not None:
                    self._evict(leaving, guest, table)
                    return True
        return False

    def fill(self) -> None:
        """Use the room that is free, for the model that gains most."""
        for table in self.seating.tables:
            while (guest := self._next_for(table)) is not None:
                count = len(guest.tables)
                reason = f"{table.id} has room, and {guest.name} is on {count} workers"
                self._load(guest, table, reason)

    def _next_for(self, table: Table) -> Guest | None:
        best: Guest | None = None
        if table.places < 1 or table.worker.fixed:
            return None
        for guest in self._loadable:
            if guest.memory > table.room:
                break
            if (
                guest.name not in table.held
                and (best is None or _urgency(guest) > _urgency(best))
                and _may_have_more(guest)
                and self.seating.may_sit(guest, table)
            ):
                best = guest
        return best

    def share(self) -> None:
        """Give seats of models that are well off to those that are short, the worst off first."""
        queue = [_place(guest) for guest in self._loadable if self._is_short(guest)]
        heapify(queue)
        while queue:
            guest = self.seating.guests[heappop(queue)[-1]]
            if self._grant(guest) and self._is_short(guest):
                heappush(queue, _place(guest))

    def _is_short(self, guest: Guest) -> bool:
        """Whether it lacks capacity, besides what is to spare, for longer than a load takes; or a
        reserve.
        """
        if not _may_have_more(guest) or (guest.failed and not guest.ready):
            return False
        if len(guest.tables) < guest.floor:
            return True
        if not guest.tables:
            return guest.busy
        if guest.strain <= 1:
            return guest.lacks_reserve
        gets = guest.need / guest.strain
        return guest.backlog > (gets - guest.arriving) * guest.demand.load_seconds

    def _grant(self, guest: Guest) -> bool:
        """One seat more for the model; False if nobody can spare one."""
        limits = self._limits(guest)
        donors = self._donors(guest, limits)
        for donor in donors[:RESERVE_DONORS] if guest.lacks_reserve else donors:
            for table in self._spare_seats(donor):
                if not self._may_swap(guest, donor, table, limits):
                    continue
                leaving = self.seating.victims(guest, table, donor, limits)
                if leaving is not None:
                    reason = _shortage(guest)
                    self._evict(leaving, guest, table)
                    self._load(guest, table, reason)
                    return True
        return False

    def _limits(self, guest: Guest) -> Limits:
        """What those may be left with that make room for it: they stay better off by far."""
        policy = self._policy
        if len(guest.tables) < max(1, guest.floor):
            return NO_LIMITS
        if guest.lacks_reserve:
            exposure = guest.exposure / (1 + policy.reserve_hysteresis)
            return Limits(1, exposure, seats=1, stayed=RESERVE_DWELLS * policy.dwell_seconds)
        exposure = guest.pressure * (1 + policy.reserve_hysteresis)
        return Limits(guest.strain / (1 + policy.hysteresis), exposure)

    def take_turns(self) -> None:
        """Who waits too long and found no place gets one, even the last of a model with jobs."""
        waiting = [g for g in self._loadable if not g.tables and self._is_short(g)]
        for guest in sorted(waiting, key=_place):
            if (guest.demand.oldest_wait or 0.0) < self._policy.slo_seconds:
                continue
            tables = (table for table in self.seating.tables if self.seating.may_sit(guest, table))
            turns = [(t, over) for t in tables if (over := self.seating.turns_over(guest, t))]
            if turns:
                table, leaving = min(turns, key=_last_come)
                reason = _shortage(guest)
                self._evict(leaving, guest, table)
                self._load(guest, table, reason)

    def _donors(self, guest: Guest, limits: Limits) -> list[Guest]:
        """Who might spare a seat for it, the best off first."""
        limit = limits.strain
        relieved = limit + guest.relief(self._fastest)
        beside = {name for table in guest.tables for name in table.held}
        donors = [
            donor
            for donor in self.seating.guests.values()
            if donor.least_exposure <= limits.exposure
            and donor.least_without <= (relieved if donor.name in beside else limit)
        ]
        return sorted(donors, key=lambda g: (g.busy, g.pressure, g.name))

    def _spare_seats(self, donor: Guest) -> list[Table]:
        """The least busy first; as it was when it was first asked for."""
        if donor.name not in self._spare:
            seats = [table for table in donor.tables if self.seating.may_leave(donor, table)]
            self._spare[donor.name] = sorted(seats, key=lambda table: (table.load, table.id))
        return self._spare[donor.name]

    def _may_swap(self, guest: Guest, donor: Guest, table: Table, limits: Limits) -> bool:
        return (
            table.load <= limits.strain
            and self.seating.may_sit(guest, table)
            and donor.name in table.held
            and self.seating.may_leave(donor, table)
            and self.seating.can_spare(donor, table, guest, limits)
        )

    def _evict(self, leaving: list[Guest], guest: Guest, table: Table) -> None:
        for other in leaving:
            left = len(other.tables) - 1
            reason = (
                f"makes room for {guest.name}; {other.name} needs {other.need:.2f} workers "
                f"and stays on {left}"
            )
            self._unload(other, table, reason)

    def _load(self, guest: Guest, table: Table, reason: str) -> None:
        self.seating.sit(guest, table)
        self.moves.append(Move(Action.LOAD, guest.name, table.id, reason))

    def _unload(self, guest: Guest, table: Table, reason: str) -> None:
        self.seating.leave(guest, table)
        self.moves.append(Move(Action.UNLOAD, guest.name, table.id, reason))


def _last_come(turn: tuple[Table, Sequence[Guest]]) -> float:
    table, leaving = turn
    return max(table.worker.seats[guest.name].since for guest in leaving)


def _excess(guest: Guest) -> str:
    if guest.demand.wanted is Wanted.UNLOADED:
        return f"{guest.name} is to be unloaded"
    if guest.idle:
        return f"{guest.name} has had no job for {guest.demand.idle_seconds:.0f} s"
    return f"{guest.name} may have {guest.most:.0f} replicas and has {len(guest.tables)}"


def _net(moves: Sequence[Move]) -> Iterator[Move]:
    """The moves without those of a model that leaves a worker and comes back to it."""
    counts = Counter((move.model, move.worker) for move in moves)
    return (move for move in moves if counts[move.model, move.worker] == 1)


def _obstacle(guest: Guest) -> str:
    """Why a model has no worker."""
    if guest.demand.wanted is Wanted.UNLOADED:
        return "it is to stay unloaded"
    if guest.failed:
        workers = ", ".join(table.id for table in guest.failed)
        return f"it failed to load; {workers} will try again"
    return "no worker can make room for it yet"


def _may_have_more(guest: Guest) -> bool:
    suspect = guest.failed and not guest.ready and len(guest.failed + guest.tables) >= TRIES
    return len(guest.tables) < guest.most and not suspect


def _urgency(guest: Guest) -> tuple[float, float, float]:
    """Who lacks capacity comes before those who lack a reserve."""
    strain = guest.strain if guest.strain > 1 else 0.0
    return (strain, guest.pressure, guest.demand.oldest_wait or 0.0)


def _place(guest: Guest) -> tuple[float, float, float, str]:
    """Its place in the queue of those that are short: the smallest is first."""
    strain, pressure, wait = _urgency(guest)
    return (-strain, -pressure, -wait, guest.name)


def _shortage(guest: Guest) -> str:
    demand = guest.demand
    if guest.lacks_reserve:
        return (
            f"{guest.name} has {guest.speed:.1f} workers and should have {guest.cover:.1f} "
            f"in case of a burst: {demand.arrival:.2f} jobs a second arrive"
        )
    gets = guest.need / guest.strain
    return (
        f"{guest.name} needs {guest.need:.2f} workers and gets {gets:.2f}: "
        f"{demand.queued} jobs wait (the oldest {demand.oldest_wait or 0:.0f} s), "
        f"{demand.arrival:.2f} a second arrive"
    )


def _recommend(guest: Guest, policy: Policy) -> Recommendation:
    demand = guest.demand
    limit = inf if policy.idle_seconds is None else policy.idle_seconds
    in_use = demand.queued or demand.running or demand.idle_seconds < limit
    needed = max(1, ceil(guest.arriving + guest.waiting)) if in_use else 0
    replicas = int(min(guest.most, max(guest.floor, needed)))
    if demand.wanted is Wanted.UNLOADED:
        replicas = 0
    return Recommendation(guest.name, replicas, guest.arriving, guest.waiting)


def _total(seating: Seating, recommendations: list[Recommendation]) -> int:
    """Workers for all of that together: for their work, and for their memory."""
    kept = [each for each in recommendations if each.replicas]
    work = sum(each.arriving + each.waiting for each in kept)
    memory = sum(seating.guests[each.model].memory for each in kept)
    sizes = [table.worker.memory_mb for table in seating.tables]
    size = sum(sizes) / len(sizes) if sizes else inf
    by_memory = memory / size if isfinite(size) and size else 0.0
    largest = max((each.replicas for each in kept), default=0)
    return max(ceil(work), ceil(by_memory), largest)
