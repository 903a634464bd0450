"""Simulated workers and their queues.

A day of a thousand workers has some hundred million jobs, so jobs are a fluid: each step, so many
arrive for each model (drawn by chance), and so much of the workers' time goes into them, first
come first served. A worker is one device: the models on it that have jobs share its time equally,
and what one of them does not need goes to the others, as when their batches take turns. A model
that loads serves nothing until it is ready; the worker's other models go on meanwhile. One that is
unloaded serves nothing from that moment; its load time includes what its predecessor takes to end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from nexus_jobs.fleet import Action, ModelState
from nexus_jobs.placement import Move, Seat, WorkerLoad
from nexus_jobs.simulation.traffic import WORKER_MEMORY_MB, Array, SimulatedModel

ROUNDS = 6
"""How often time that is left over is handed on within one step."""
NOTHING = 1e-9
"""Seconds of a worker; less is no work."""


class Cluster:
    """The workers, what stands on them, and the seconds of work that wait for each model."""

    def __init__(self, workers: int, models: Sequence[SimulatedModel], step: float) -> None:
        self.loads = [
            WorkerLoad(id=f"w{number:04}", memory_mb=WORKER_MEMORY_MB) for number in range(workers)
        ]
        self.backlog = np.zeros(len(models))
        self._models = models
        self._step = step
        self._number = {load.id: number for number, load in enumerate(self.loads)}
        self._column = {model.name: column for column, model in enumerate(models)}
        self._ready_at = np.full((workers, len(models)), np.inf)
        self._loading: list[tuple[float, int, int]] = []
        self._find_seats(0.0)

    def apply(self, now: float, moves: Iterable[Move], *, at_once: bool = False) -> None:
        """Begin the moves; with `at_once` a load takes no time."""
        changed: dict[int, dict[str, Seat]] = {}
        for move in moves:
            number, column = self._number[move.worker], self._column[move.model]
            seats = changed.setdefault(number, dict(self.loads[number].seats))
            if move.action is Action.UNLOAD:
                del seats[move.model]
                self._ready_at[number, column] = np.inf
            else:
                seconds = 0.0 if at_once else self._models[column].load_seconds
                seats[move.model] = Seat(ModelState.LOADING, now)
                self._ready_at[number, column] = now + seconds
                self._loading.append((now + seconds, number, column))
        for number, seats in changed.items():
            self.loads[number] = replace(self.loads[number], seats=seats)
        if changed:
            self._find_seats(now)

    def settle(self, now: float) -> None:
        """Let loads end that are done by now."""
        done = [entry for entry in self._loading if entry[0] <= now]
        for at, number, column in done:
            if self._ready_at[number, column] == at:
                load, name = self.loads[number], self._models[column].name
                seat = replace(load.seats[name], state=ModelState.READY)
                self.loads[number] = replace(load, seats={**load.seats, name: seat})
        if done:
            self._loading = [entry for entry in self._loading if entry[0] > now]
            self._find_seats(now)

    def _find_seats(self, now: float) -> None:
        self._rows, self._columns = np.nonzero(self._ready_at <= now)

    def serve(self, arriving: Array) -> Array:
        """Work for one step: the seconds that arrive for each model in, those worked off out."""
        left = self.backlog + arriving
        before = left.copy()
        free = np.full(len(self.loads), self._step)
        rows, columns = self._rows, self._columns
        for _ in range(ROUNDS):
            active = (left[columns] > NOTHING) & (free[rows] > NOTHING)
            if not active.any():
                break
            rows, columns = rows[active], columns[active]
            share = (free / np.maximum(1, np.bincount(rows, minlength=len(free))))[rows]
            offered = np.bincount(columns, share, len(left))
            part = np.minimum(1, left / np.maximum(offered, NOTHING))
            share *= part[columns]
            left -= offered * part
            free -= np.bincount(rows, share, len(free))
        self.backlog = np.maximum(0, left)
        return np.asarray(before - self.backlog)
