"""The working copy in which a rebalancing is tried out: which models are where, and how busy that
makes each worker.

Loads are estimated as if each model spread its need over its seats to even them out: first
equally, then once more in proportion to the room that this would leave (two rounds of
proportional fitting).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from math import inf
from typing import Final, NamedTuple

from nexus_jobs.fleet import ModelState
from nexus_jobs.placement import Fleet, Policy
from nexus_jobs.planned import LEAST_NEED, PlannedModel, PlannedWorker

LOADING, READY, FAILED = ModelState.LOADING, ModelState.READY, ModelState.FAILED
TURN_LOADS: Final = 4
"""Models that take turns run for so many times what a load takes: four fifths of the time."""


class Limits(NamedTuple):
    """The most that a model may be left with when it gives up a seat, and the fewest seats; and how
    many seconds it has been there at least."""

    strain: float = inf
    exposure: float = inf
    seats: int = 0
    stayed: float = 0.0


NO_LIMITS: Final = Limits()


class TrialPlan:
    """Every model's seats and every worker's load; changes keep the estimates roughly right."""

    def __init__(self, fleet: Fleet, policy: Policy) -> None:
        self.now = fleet.now
        self.policy = policy
        self.models = {demand.model: PlannedModel(demand, policy) for demand in fleet.demands}
        self.workers = [PlannedWorker(each) for each in fleet.workers]
        self.unknown: list[tuple[str, PlannedWorker]] = []
        """Models on workers that nobody asks for any more."""
        for worker in self.workers:
            self._read_seats(worker)
        self._weigh()

    def _read_seats(self, worker: PlannedWorker) -> None:
        models = worker.models
        for name, seat in worker.reported.seats.items():
            model, state = self.models.get(name), seat.state
            if state is READY or state is LOADING:
                if model is None:
                    self.unknown.append((name, worker))
                    continue
                models[name] = model
                model.workers.append(worker)
                if state is READY:
                    model.ready += 1
            elif model is not None and state is FAILED:
                model.failed.append(worker)
        worker.room -= sum([model.memory for model in models.values()])
        worker.places -= len(models)

    def _weigh(self) -> None:
        share: dict[str, float] = {}
        for model in self.models.values():
            speeds = [worker.speed for worker in model.workers]
            model.speed, model.slowest = sum(speeds), min(speeds, default=0.0)
            share[model.name] = model.need / model.speed if model.workers else 0.0
        for worker in self.workers:
            worker.spread = LEAST_NEED + sum([share[name] for name in worker.models])
        for model in self.models.values():
            if model.workers:
                room = sum([worker.speed / worker.spread for worker in model.workers])
                share[model.name] = model.need / room
        for worker in self.workers:
            worker.load = sum([share[name] for name in worker.models]) / worker.spread
        for model in self.models.values():
            model.load = sum([worker.speed * worker.load for worker in model.workers])

    def may_place(self, model: PlannedModel, worker: PlannedWorker) -> bool:
        """Whether the model may be put there, if there is room. Says nothing of the room."""
        return (
            model.name not in worker.models
            and not worker.reported.fixed
            and worker not in model.failed
        )

    def may_remove(self, model: PlannedModel, worker: PlannedWorker) -> bool:
        """Whether nothing but its usefulness keeps the model there."""
        stayed = self._has_stayed(model, worker, self.policy.dwell_seconds)
        return stayed and not self.strands(model, worker)

    def _has_stayed(self, model: PlannedModel, worker: PlannedWorker, seconds: float) -> bool:
        """Whether the model has been there for so long, and nobody wants it to stay."""
        seat = worker.reported.seats.get(model.name)
        return (
            seat is not None
            and seat.since + seconds <= self.now
            and not worker.reported.fixed
            and worker.id not in model.demand.pinned
            and len(model.workers) > model.floor
        )

    def strands(self, model: PlannedModel, worker: PlannedWorker) -> bool:
        """Whether leaving would leave jobs of the model without a ready server."""
        return model.busy and model.ready <= self.is_ready(model, worker)

    def is_ready(self, model: PlannedModel, worker: PlannedWorker) -> bool:
        seat = worker.reported.seats.get(model.name)
        return seat is not None and seat.state is READY

    def strain_without(self, model: PlannedModel, worker: PlannedWorker) -> float:
        """The model's strain once the rest of its seats have taken over its part there."""
        if not model.busy:
            return 0.0
        speed = worker.speed
        if model.speed <= speed:
            return inf
        part = model.need / model.speed
        return (model.load - speed * (worker.load - part)) / (model.speed - speed)

    def can_spare(
        self, model: PlannedModel, worker: PlannedWorker, heir: PlannedModel, limits: Limits
    ) -> bool:
        """Whether the model stays within the limits if the heir takes its seat there, and so has
        less to do where both of them are."""
        kept = model.speed - worker.speed
        if len(model.workers) <= limits.seats or not self._has_stayed(model, worker, limits.stayed):
            return False
        if model.busy and kept > 0 and model.cover > limits.exposure * kept:
            return False
        without = self.strain_without(model, worker)
        if without <= limits.strain or kept <= 0:
            return without <= limits.strain
        relief = heir.relief(worker.speed) / kept
        if without - relief * min(heir.speed, kept) > limits.strain:
            return False  # and so the sum below is spared, mostly
        shared = sum([other.speed for other in model.workers if heir.name in other.models])
        return without - relief * shared <= limits.strain

    def place(self, model: PlannedModel, worker: PlannedWorker) -> None:
        speed = worker.speed
        model.load = (model.load if model.workers else model.need) + speed * worker.load
        model.workers.append(worker)
        model.speed += speed
        model.slowest = min(model.slowest, speed)
        part = model.need / model.speed
        for other in worker.models.values():
            other.load += speed * part
        worker.models[model.name] = model
        worker.load += part
        worker.room -= model.memory
        worker.places -= 1

    def remove(self, model: PlannedModel, worker: PlannedWorker) -> None:
        speed = worker.speed
        part = min(worker.load, model.need / model.speed)
        model.load -= speed * (worker.load - part)
        model.speed -= speed
        model.workers.remove(worker)
        model.ready -= self.is_ready(model, worker)
        del worker.models[model.name]
        for other in worker.models.values():
            other.load -= speed * part
        worker.load -= part
        worker.room += model.memory
        worker.places += 1

    def victims(
        self, model: PlannedModel, worker: PlannedWorker, first: PlannedModel, limits: Limits
    ) -> list[PlannedModel] | None:
        """Who leaves so that `model` fits, `first` among them; None if that is not possible
        within the limits.
        """
        others = (
            other
            for other in self._by_usefulness(worker)
            if other is not first and self.can_spare(other, worker, model, limits)
        )
        return _first_enough(model, worker, chain([first], others))

    def turns_over(self, model: PlannedModel, worker: PlannedWorker) -> list[PlannedModel] | None:
        """Who leaves so that `model` fits, those who came first; None if that is not possible.

        Each has been there so long that most of the time went to its jobs and not to its load.
        """
        over = (other for other in worker.models.values() if self._had_turn(other, worker))
        in_order = sorted(over, key=lambda other: worker.reported.seats[other.name].since)
        return _first_enough(model, worker, in_order)

    def _had_turn(self, model: PlannedModel, worker: PlannedWorker) -> bool:
        load = model.demand.load_seconds
        return self._has_stayed(
            model, worker, load + max(self.policy.dwell_seconds, TURN_LOADS * load)
        )

    def _by_usefulness(self, worker: PlannedWorker) -> Iterator[PlannedModel]:
        leaving = [model for model in worker.models.values() if self.may_remove(model, worker)]
        return iter(sorted(leaving, key=lambda m: (self.strain_without(m, worker), m.name)))


def _first_enough(
    model: PlannedModel, worker: PlannedWorker, leaving: Iterable[PlannedModel]
) -> list[PlannedModel] | None:
    """The first of those whose leaving makes room enough; None if all of them do not."""
    room, places, found = worker.room, worker.places, []
    for other in leaving:
        found.append(other)
        room, places = room + other.memory, places + 1
        if room >= model.memory and places >= 1:
            return found
    return None
