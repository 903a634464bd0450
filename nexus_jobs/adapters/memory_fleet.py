"""The fleet in memory: registry, workers, and schedule."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from nexus_jobs.fleet import (
    Action,
    Assignment,
    Decision,
    Measured,
    Origin,
    Recommendation,
    RegisteredModel,
    Wanted,
    WorkerReport,
)
from nexus_jobs.models import ModelConfig


class MemoryFleet:
    """FleetStore and ScheduleStore of one process."""

    def __init__(self) -> None:
        super().__init__()
        self._fleet_lock = threading.RLock()
        self._models: dict[str, RegisteredModel] = {}
        self._versions: dict[str, list[tuple[int, float, ModelConfig]]] = defaultdict(list)
        self._workers: dict[str, WorkerReport] = {}
        self._leader, self._leads_until = "", 0.0
        self._assignments: dict[tuple[str, str], Assignment] = {}
        self._decisions: list[Decision] = []
        self._recommendations: list[Recommendation] = []

    def sync_models(self, registered: Sequence[ModelConfig]) -> None:
        with self._fleet_lock:
            names = {model.name for model in registered}
            before = list(self._models.values())
            for known in before:
                if known.origin is Origin.FILE and known.name not in names:
                    self.remove_model(known.name)
            listed = {model.name: self.register(model, Origin.FILE) for model in registered}
            self._models = listed | {k: v for k, v in self._models.items() if k not in listed}

    def models(self) -> list[ModelConfig]:
        return [known.config for known in self.registered()]

    def registered(self) -> list[RegisteredModel]:
        with self._fleet_lock:
            known = list(self._models.values())
        listed = [one for one in known if one.origin is Origin.FILE]
        others = [one for one in known if one.origin is not Origin.FILE]
        return [*listed, *sorted(others, key=lambda one: one.name)]

    def register(self, model: ModelConfig, origin: Origin = Origin.API) -> RegisteredModel:
        with self._fleet_lock:
            known = self._models.get(model.name)
            if known is not None and known.config == model:
                entry = replace(known, origin=origin)
            else:
                version, at = len(self._versions[model.name]) + 1, time.time()
                self._versions[model.name].append((version, at, model))
                entry = RegisteredModel(
                    config=model,
                    version=version,
                    origin=origin,
                    wanted=known.wanted if known else Wanted.AUTO,
                    registered_at=at,
                )
            self._models[model.name] = entry
            return entry

    def versions(self, name: str) -> list[tuple[int, float, ModelConfig]]:
        with self._fleet_lock:
            return list(self._versions.get(name, ()))

    def remove_model(self, name: str) -> bool:
        with self._fleet_lock:
            kept = {key: one for key, one in self._assignments.items() if one.model != name}
            self._assignments = kept
            return self._models.pop(name, None) is not None

    def want(self, name: str, wanted: Wanted) -> RegisteredModel | None:
        with self._fleet_lock:
            if name not in self._models:
                return None
            self._models[name] = replace(self._models[name], wanted=wanted)
            return self._models[name]

    def note_measured(self, name: str, measured: Measured) -> None:
        with self._fleet_lock:
            if name in self._models:
                self._models[name] = replace(self._models[name], measured=measured)

    def report(self, worker: WorkerReport) -> None:
        with self._fleet_lock:
            self._workers[worker.id] = replace(worker, seen_at=time.time())

    def retire(self, worker_id: str, pid: int) -> None:
        with self._fleet_lock:
            worker = self._workers.get(worker_id)
            if worker is not None and worker.pid == pid:
                del self._workers[worker_id]

    def workers(self, *, max_age: float) -> list[WorkerReport]:
        with self._fleet_lock:
            since = time.time() - max_age
            seen = [worker for worker in self._workers.values() if worker.seen_at >= since]
        return sorted(seen, key=lambda worker: worker.id)

    def clock(self) -> float:
        return time.time()

    def lead(self, holder: str, *, seconds: float) -> bool:
        with self._fleet_lock:
            if self._leader != holder and time.time() <= self._leads_until:
                return False
            self._leader, self._leads_until = holder, time.time() + seconds
            return True

    def stop_leading(self, holder: str) -> None:
        with self._fleet_lock:
            if self._leader == holder:
                self._leads_until = 0.0

    def assignments(self) -> list[Assignment]:
        with self._fleet_lock:
            return [self._assignments[key] for key in sorted(self._assignments)]

    def assigned(self, worker: str) -> list[RegisteredModel]:
        with self._fleet_lock:
            mine = [one.model for one in self.assignments() if one.worker == worker]
            return [self._models[name] for name in mine if name in self._models]

    def decide(self, holder: str, made: Sequence[Decision]) -> bool:
        with self._fleet_lock:
            at = time.time()
            if self._leader != holder or at > self._leads_until:
                return False
            for decision in made:
                key = (decision.worker, decision.model)
                self._assignments.pop(key, None)
                if decision.action is Action.LOAD:
                    self._assignments[key] = Assignment(
                        worker=decision.worker, model=decision.model, since=at
                    )
                self._decisions.append(replace(decision, at=at))
            return True

    def forget_worker(self, worker: str) -> None:
        with self._fleet_lock:
            kept = {key: one for key, one in self._assignments.items() if one.worker != worker}
            self._assignments = kept

    def decisions(self, limit: int) -> list[Decision]:
        with self._fleet_lock:
            return self._decisions[::-1][:limit]

    def recommend(self, replicas: Sequence[Recommendation]) -> None:
        with self._fleet_lock:
            self._recommendations = sorted(replicas, key=lambda one: one.model)

    def recommendations(self) -> list[Recommendation]:
        with self._fleet_lock:
            return list(self._recommendations)
