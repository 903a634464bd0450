"""Made-up models and the jobs that arrive for them: some models are popular, days have a rhythm,
and now and then one model has a burst.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

DAY: Final = 86_400.0
SKEW: Final = 0.9
"""Exponent of Zipf's law: the popularity of the n-th model is 1 / n ** SKEW."""
REGIONS: Final = 3
"""Models' users live in so many time zones, a part of a day apart."""
BURSTS_A_DAY: Final = 3.0
"""For each model. A burst adds a few times the square root of the model's mean, so that it is
larger, compared with the rest of its traffic, where a model has few users.
"""
WORKER_MEMORY_MB: Final = 80_000.0
SIZES_MB: Final = (16_000.0, 24_000.0, 40_000.0, 60_000.0)
LOAD_MB_A_SECOND: Final = 1_000.0
WARM_UP_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """What the policy knows of a model; the units are those of `Demand`."""

    name: str
    memory_mb: float
    load_seconds: float
    tokens_per_job: float
    tokens_per_second: float

    @property
    def worker_seconds(self) -> float:
        """What a job takes of a worker whose batch is full."""
        return self.tokens_per_job / self.tokens_per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The size of the fleet and of its traffic; the same seed makes the same day."""

    workers: int
    models: int
    hours: float
    load: float
    """The part of all workers' time that the jobs take in the mean."""
    seed: int
    step: float = 15.0
    """Seconds from one decision to the next."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """`jobs[i, m]` arrive for model m in the i-th step of `step` seconds."""

    models: Sequence[SimulatedModel]
    step: float
    jobs: Array


def make_traffic(scenario: Scenario) -> Traffic:
    chance = np.random.default_rng(scenario.seed)
    kinds = [_make_model(index, chance) for index in range(scenario.models)]
    times = np.arange(0.0, scenario.hours * 3600, scenario.step) + scenario.step / 2
    popularity = 1 / np.arange(1, scenario.models + 1) ** SKEW
    rhythms = np.array([_rhythm(times, chance) for _ in kinds]).T
    bursts = np.array([_bursts(times, chance) for _ in kinds]).T
    work = rhythms * popularity + bursts * np.sqrt(popularity * popularity.mean())
    work *= scenario.load * scenario.workers / work.sum(axis=1).mean()
    seconds = np.array([kind.worker_seconds for kind in kinds])
    jobs = chance.poisson(work / seconds * scenario.step).astype(float)
    return Traffic(kinds, scenario.step, jobs)


def _make_model(index: int, chance: np.random.Generator) -> SimulatedModel:
    memory = float(chance.choice(SIZES_MB))
    return SimulatedModel(
        name=f"model-{index:03}",
        memory_mb=memory,
        load_seconds=WARM_UP_SECONDS + memory / LOAD_MB_A_SECOND,
        tokens_per_job=float(chance.uniform(50, 500)),
        tokens_per_second=2000 * SIZES_MB[0] / memory,
    )


def _rhythm(times: Array, chance: np.random.Generator) -> Array:
    """The rhythm of a day, around 1, in one of the regions."""
    noon = (chance.integers(REGIONS) / REGIONS + chance.normal(0, 0.03)) * DAY
    depth = chance.uniform(0.4, 0.9)
    rhythm: Array = 1 + depth * np.cos(2 * pi * (times - noon) / DAY)
    return rhythm


def _bursts(times: Array, chance: np.random.Generator) -> Array:
    """What bursts add: each rises within some minutes, stays, and falls as it rose."""
    added = np.zeros_like(times)
    for _ in range(chance.poisson(BURSTS_A_DAY * times[-1] / DAY)):
        begin, length = chance.uniform(0, times[-1]), chance.uniform(300, 2400)
        height, ramp = chance.lognormal(1.0, 0.6), chance.uniform(60, 300)
        inside = np.minimum(times - begin, begin + length - times)
        added += height * np.clip(inside / ramp, 0, 1)
    return added
