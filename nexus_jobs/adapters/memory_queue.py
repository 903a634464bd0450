"""Tickets and signals inside one process, for tests and for trying things out."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping

from nexus_jobs.ports import Channel, Hints


class MemoryTickets:
    """A TicketQueue that hands each ticket to `deliver`, or counts it until somebody takes it."""

    def __init__(self, deliver: Callable[[str, int], None] | None = None) -> None:
        self._deliver = deliver
        self._lock = threading.Lock()
        self._waiting: dict[str, int] = defaultdict(int)

    def ring(self, counts: Mapping[str, int]) -> None:
        for model, count in counts.items():
            if self._deliver is not None:
                self._deliver(model, count)
            else:
                with self._lock:
                    self._waiting[model] += 1

    def waiting(self, model: str) -> int:
        return self._waiting[model]


class MemorySignals:
    """Signals as direct calls on the sender's thread."""

    def __init__(self) -> None:
        self._heard: dict[Channel, list[Callable[[Hints], None]]] = defaultdict(list)

    def send(self, channel: Channel, hints: Hints) -> None:
        if hints:
            for heard in self._heard[channel]:
                heard(hints)

    def listen(self, channel: Channel, heard: Callable[[Hints], None]) -> None:
        self._heard[channel].append(heard)

    def close(self) -> None:
        self._heard.clear()
