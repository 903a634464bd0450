"""Deals one fault after the other, with pauses in which the platform can breathe."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from nexus_jobs.chaos.fault import Fault, NothingToBreak

BREATH: Final = (0.5, 3.0)
"""Seconds between two faults, at least and at most."""


class Campaign:
    """Every kind of fault comes once before any comes again; a seed gives the order and the times.

    `say` is told of each.
    """

    def __init__(self, faults: Sequence[Fault], *, seed: int, say: Callable[[str], None]) -> None:
        self._faults = faults
        self._chance = random.Random(seed)  # noqa: S311
        self._say = say
        self.injected: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        """Break things for so long; everything is whole again at the end, also after an error."""
        started = time.monotonic()
        faults = self._deal()
        try:
            while (left := started + seconds - time.monotonic()) > 0:
                time.sleep(min(left, self._chance.uniform(*BREATH)))
                self._break(next(faults), started)
        finally:
            with contextlib.ExitStack() as repairs:  # each gets its turn even if others fail
                for fault in self._faults:
                    repairs.callback(fault.heal)

    def _deal(self) -> Iterator[Fault]:
        while True:
            yield from self._chance.sample(self._faults, len(self._faults))

    def _break(self, fault: Fault, started: float) -> None:
        lasting = self._chance.uniform(*fault.seconds)
        try:
            fault.inject(self._chance)
        except NothingToBreak:
            return
        self.injected[fault.name] += 1
        span = f", for {lasting:.1f} s" if lasting >= 0.1 else ""
        self._say(f"{time.monotonic() - started:6.1f} s  {fault.name}{span}")
        time.sleep(lasting)
        fault.heal()
