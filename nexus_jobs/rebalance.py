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
from typing import Final

from nexus_jobs.fleet import Action, Wanted
from nexus_jobs.fleet_size import recommend, total_workers
from nexus_jobs.placement import Fleet, Move, Plan, Policy
from nexus_jobs.plan_reasons import excess, obstacle, shortage
from nexus_jobs.planned import PlannedModel, PlannedWorker
from nexus_jobs.trial_plan import NO_LIMITS, Limits, TrialPlan

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
    models, workers = decision.trial.models, decision.trial.workers
    recommendations = [recommend(model, policy) for model in models.values()]
    return Plan(
        moves=list(_net(decision.moves)),
        recommendations=recommendations,
        total_workers=total_workers(recommendations, models, workers),
        blocked={m.name: obstacle(m) for m in models.values() if m.demand.queued and not m.workers},
    )


class _Decision:
    """Collects the moves, in the order in which the seats become free and are taken."""

    def __init__(self, fleet: Fleet, policy: Policy) -> None:
        self.trial = TrialPlan(fleet, policy)
        self.moves: list[Move] = []
        self._policy = policy
        self._spare: dict[str, list[PlannedWorker]] = {}
        self._fastest = max((worker.speed for worker in self.trial.workers), default=0.0)
        self._loadable = [m for m in self.trial.models.values() if m.most > 0]
        self._loadable.sort(key=lambda model: (model.memory, model.name))

    def clear(self) -> None:
        """Unload what nobody wants any more, what is idle, and what is too many."""
        for name, worker in self.trial.unknown:
            if not worker.reported.fixed:
                self.moves.append(Move(Action.UNLOAD, name, worker.id, f"{name} is not registered"))
        for model in self.trial.models.values():
            if len(model.workers) > model.most:
                self._trim(model)
            if model.most == 0:
                self._give_up(model)

    def _give_up(self, model: PlannedModel) -> None:
        """Have nobody try again to load what is not needed any more."""
        for worker in model.failed:
            if not worker.reported.fixed:
                self.moves.append(Move(Action.UNLOAD, model.name, worker.id, excess(model)))

    def _trim(self, model: PlannedModel) -> None:
        """Those that are not ready first, then those on busy workers."""
        ready = self.trial.is_ready
        for worker in sorted(model.workers, key=lambda each: (ready(model, each), -each.load)):
            if len(model.workers) > model.most and self._may_trim(model, worker):
                self._unload(model, worker, excess(model))

    def _may_trim(self, model: PlannedModel, worker: PlannedWorker) -> bool:
        if model.demand.wanted is Wanted.UNLOADED:
            return not worker.reported.fixed
        if model.idle:
            return self.trial.may_remove(model, worker)
        kept = worker.reported.fixed or worker.id in model.demand.pinned
        return not kept and not self.trial.strands(model, worker)

    def pin(self) -> None:
        """Put models where a person wants them, whoever has to leave for it."""
        workers = {worker.id: worker for worker in self.trial.workers}
        for model in self._loadable:
            for name in sorted(model.demand.pinned & workers.keys()):
                worker = workers[name]
                if not self.trial.may_place(model, worker):
                    continue
                if worker.fits(model) or self._make_room(model, worker):
                    self._load(model, worker, f"{model.name} is pinned to {name}")

    def _make_room(self, model: PlannedModel, worker: PlannedWorker) -> bool:
        for first in list(worker.models.values()):
            if self.trial.may_remove(first, worker):
                leaving = self.trial.victims(model, worker, first, NO_LIMITS)
                if leaving is not None:
                    self._evict(leaving, model, worker)
                    return True
        return False

    def fill(self) -> None:
        """Use the room that is free, for the model that gains most."""
        for worker in self.trial.workers:
            while (model := self._next_for(worker)) is not None:
                count = len(model.workers)
                reason = f"{worker.id} has room, and {model.name} is on {count} workers"
                self._load(model, worker, reason)

    def _next_for(self, worker: PlannedWorker) -> PlannedModel | None:
        best: PlannedModel | None = None
        if worker.places < 1 or worker.reported.fixed:
            return None
        for model in self._loadable:
            if model.memory > worker.room:
                break
            if (
                model.name not in worker.models
                and (best is None or _urgency(model) > _urgency(best))
                and _may_have_more(model)
                and self.trial.may_place(model, worker)
            ):
                best = model
        return best

    def share(self) -> None:
        """Give seats of models that are well off to those that are short, the worst off first."""
        queue = [_rank(model) for model in self._loadable if self._is_short(model)]
        heapify(queue)
        while queue:
            model = self.trial.models[heappop(queue)[-1]]
            if self._grant(model) and self._is_short(model):
                heappush(queue, _rank(model))

    def _is_short(self, model: PlannedModel) -> bool:
        """Whether it lacks capacity, besides what is to spare, for longer than a load takes; or a
        reserve.
        """
        if not _may_have_more(model) or (model.failed and not model.ready):
            return False
        if len(model.workers) < model.floor:
            return True
        if not model.workers:
            return model.busy
        if model.strain <= 1:
            return model.lacks_reserve
        gets = model.need / model.strain
        return model.backlog > (gets - model.arriving) * model.demand.load_seconds

    def _grant(self, model: PlannedModel) -> bool:
        """One seat more for the model; False if nobody can spare one."""
        limits = self._limits(model)
        donors = self._donors(model, limits)
        for donor in donors[:RESERVE_DONORS] if model.lacks_reserve else donors:
            for worker in self._spare_seats(donor):
                if not self._may_swap(model, donor, worker, limits):
                    continue
                leaving = self.trial.victims(model, worker, donor, limits)
                if leaving is not None:
                    reason = shortage(model)
                    self._evict(leaving, model, worker)
                    self._load(model, worker, reason)
                    return True
        return False

    def _limits(self, model: PlannedModel) -> Limits:
        """What those may be left with that make room for it: they stay better off by far."""
        policy = self._policy
        if len(model.workers) < max(1, model.floor):
            return NO_LIMITS
        if model.lacks_reserve:
            exposure = model.exposure / (1 + policy.reserve_hysteresis)
            return Limits(1, exposure, seats=1, stayed=RESERVE_DWELLS * policy.dwell_seconds)
        exposure = model.pressure * (1 + policy.reserve_hysteresis)
        return Limits(model.strain / (1 + policy.hysteresis), exposure)

    def take_turns(self) -> None:
        """Who waits too long and found no place gets one, even the last of a model with jobs."""
        waiting = [m for m in self._loadable if not m.workers and self._is_short(m)]
        for model in sorted(waiting, key=_rank):
            if (model.demand.oldest_wait or 0.0) < self._policy.slo_seconds:
                continue
            workers = (each for each in self.trial.workers if self.trial.may_place(model, each))
            turns = [(w, over) for w in workers if (over := self.trial.turns_over(model, w))]
            if turns:
                worker, leaving = min(turns, key=_last_come)
                reason = shortage(model)
                self._evict(leaving, model, worker)
                self._load(model, worker, reason)

    def _donors(self, model: PlannedModel, limits: Limits) -> list[PlannedModel]:
        """Who might spare a seat for it, the best off first."""
        limit = limits.strain
        relieved = limit + model.relief(self._fastest)
        beside = {name for worker in model.workers for name in worker.models}
        donors = [
            donor
            for donor in self.trial.models.values()
            if donor.least_exposure <= limits.exposure
            and donor.least_without <= (relieved if donor.name in beside else limit)
        ]
        return sorted(donors, key=lambda m: (m.busy, m.pressure, m.name))

    def _spare_seats(self, donor: PlannedModel) -> list[PlannedWorker]:
        """The least busy first; as it was when it was first asked for."""
        if donor.name not in self._spare:
            seats = [worker for worker in donor.workers if self.trial.may_remove(donor, worker)]
            self._spare[donor.name] = sorted(seats, key=lambda worker: (worker.load, worker.id))
        return self._spare[donor.name]

    def _may_swap(
        self, model: PlannedModel, donor: PlannedModel, worker: PlannedWorker, limits: Limits
    ) -> bool:
        return (
            worker.load <= limits.strain
            and self.trial.may_place(model, worker)
            and donor.name in worker.models
            and self.trial.may_remove(donor, worker)
            and self.trial.can_spare(donor, worker, model, limits)
        )

    def _evict(
        self, leaving: list[PlannedModel], model: PlannedModel, worker: PlannedWorker
    ) -> None:
        for other in leaving:
            left = len(other.workers) - 1
            reason = (
                f"makes room for {model.name}; {other.name} needs {other.need:.2f} workers "
                f"and stays on {left}"
            )
            self._unload(other, worker, reason)

    def _load(self, model: PlannedModel, worker: PlannedWorker, reason: str) -> None:
        self.trial.place(model, worker)
        self.moves.append(Move(Action.LOAD, model.name, worker.id, reason))

    def _unload(self, model: PlannedModel, worker: PlannedWorker, reason: str) -> None:
        self.trial.remove(model, worker)
        self.moves.append(Move(Action.UNLOAD, model.name, worker.id, reason))


def _last_come(turn: tuple[PlannedWorker, Sequence[PlannedModel]]) -> float:
    worker, leaving = turn
    return max(worker.reported.seats[model.name].since for model in leaving)


def _net(moves: Sequence[Move]) -> Iterator[Move]:
    """The moves without those of a model that leaves a worker and comes back to it."""
    counts = Counter((move.model, move.worker) for move in moves)
    return (move for move in moves if counts[move.model, move.worker] == 1)


def _may_have_more(model: PlannedModel) -> bool:
    suspect = model.failed and not model.ready and len(model.failed + model.workers) >= TRIES
    return len(model.workers) < model.most and not suspect


def _urgency(model: PlannedModel) -> tuple[float, float, float]:
    """Who lacks capacity comes before those who lack a reserve."""
    strain = model.strain if model.strain > 1 else 0.0
    return (strain, model.pressure, model.demand.oldest_wait or 0.0)


def _rank(model: PlannedModel) -> tuple[float, float, float, str]:
    """Its place in the queue of those that are short: the smallest is first."""
    strain, pressure, wait = _urgency(model)
    return (-strain, -pressure, -wait, model.name)
