"""The load: many clients at once, at a rate that does not depend on the answers."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Final

from nexus_jobs.chaos.client import Client
from nexus_jobs.chaos.history import History
from nexus_jobs.chaos.talks import TALKS, Talk

CLIENTS: Final = 96
CATCH_UP_SECONDS: Final = 30.0
"""What clients missed because all were waiting is made up for, from so long ago at most."""
_WEIGHTS: Final = [weight for *_, weight in TALKS]


class Offer:
    """`rate` jobs a second; what is missed while all clients are busy follows after it."""

    def __init__(self, url: str, history: History, *, rate: float, seed: int) -> None:
        self._url = url
        self._history = history
        self._rate = rate
        self._chance = random.Random(seed)  # noqa: S311
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._due = time.monotonic()
        self.offered = 0
        self.odd: Counter[str] = Counter()
        """Answers that no client should ever get, and how often they came."""
        self._threads = [
            threading.Thread(target=self._work, name=f"client {number}", daemon=True)
            for number in range(CLIENTS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Submit nothing more, and wait for the answers that are under way."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        with closing(Client(self._url, self._history, self._stopped, self.odd)) as client:
            while not self._stopped.is_set():
                talk, numbers, due = self._turn()
                if not self._stopped.wait(max(0.0, due - time.monotonic())):
                    talk(client, numbers)

    def _turn(self) -> tuple[Talk, Sequence[int], float]:
        """What to do next, with the numbers of its prompts, and when (monotonic seconds)."""
        with self._lock:
            first, due = self.offered, self._due
            [(talk, size, _)] = self._chance.choices(TALKS, _WEIGHTS)
            self.offered += size
            self._due = max(due, time.monotonic() - CATCH_UP_SECONDS) + size / self._rate
        return talk, range(first, first + size), due
