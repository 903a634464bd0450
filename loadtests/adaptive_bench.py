"""Adaptive batching against fixed sizes and waits, under a load that changes.

    python -m loadtests.adaptive_bench [--quick]

The figure that counts was chosen before the controller was tuned: the share of the jobs submitted
one by one that end within the target, against fixed settings that make at least as many tokens a
second. The load: a quiet time, a large bulk with single jobs beside it, two rushes of these, calm,
and the bulk alone. First with the controller itself in simulated time, then with real workers.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from typing import Final

from loadtests.batching_simulation import (
    Controller,
    Outcome,
    Phase,
    SimulatedJob,
    Simulation,
    Times,
    adaptive,
    arrivals,
    fixed,
    outcome,
)
from loadtests.live_worker import LiveWorker
from loadtests.report import Row, Tables, keep, show
from nexus_jobs.models import ModelConfig, SimulatedTimes

SLOTS: Final = 64
DAY: Final = (
    Phase(120, 0.5),
    Phase(180, 2, bulk_rows=6000),
    Phase(60, 7),
    Phase(30, 12),
    Phase(120, 1),
    Phase(120),
)
SIZES: Final = (4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64)
WAITS: Final = (0.0, 1.0)
TARGETS: Final = (2.0, 3.0, 4.0)
SEEDS: Final = (11, 12)
"""Others than the controller was tuned with."""
LIVE_TARGET: Final = 3.0
LIVE_SIZES: Final = (8, 16, 20, 24, 32, 48, 64)
LIVE_SECONDS: Final = 300.0
OURS: Final = "adaptive"


def measure(*, quick: bool) -> Tables:
    """Tables for each target in simulated time, and for one with real workers."""
    tables = {
        f"Simulated time, target {target:g} s": _rows(found)
        for target, found in _simulated(SEEDS[:1] if quick else SEEDS).items()
    }
    live = _live(9.0 if quick else LIVE_SECONDS)
    return tables | {f"Real workers, target {LIVE_TARGET:g} s": _rows(live)}


def _simulated(seeds: Sequence[int]) -> dict[float, dict[str, Outcome]]:
    found: dict[float, dict[str, Outcome]] = {target: {} for target in TARGETS}
    for size, wait in product(SIZES, WAITS):
        runs = [_day(fixed(size, wait), seed) for seed in seeds]
        for target in TARGETS:
            found[target][_name(size, wait)] = _mean([outcome(*run, target) for run in runs])
    for target, wait in product(TARGETS, WAITS):
        runs = [_day(adaptive(SLOTS, target, max_wait=wait), seed) for seed in seeds]
        name = f"{OURS}, wait up to {wait:g} s" if wait else OURS
        found[target][name] = _mean([outcome(*run, target) for run in runs])
    return found


def _day(controller: Controller, seed: int) -> tuple[Simulation, list[SimulatedJob]]:
    jobs = arrivals(DAY, seed)
    simulation = Simulation(jobs, controller, Times(), seed)
    simulation.run(sum(phase.seconds for phase in DAY))
    return simulation, jobs


def _mean(found: Sequence[Outcome]) -> Outcome:
    return Outcome(
        in_time=sum(one.in_time for one in found) / len(found),
        tokens_per_second=sum(one.tokens_per_second for one in found) / len(found),
    )


def _live(seconds: float) -> dict[str, Outcome]:
    """All settings side by side: their steps are sleeps, so they hardly disturb each other."""
    scale = seconds / sum(phase.seconds for phase in DAY)
    phases = [replace(phase, seconds=phase.seconds * scale) for phase in DAY]
    times = SimulatedTimes(step_ms=20, step_ms_per_row=1, prefill_ms=0.2)
    model = ModelConfig(name="simulated", type="simulated", warmup=False, simulated=times)
    settings = {
        _name(size, 0.0): model.model_copy(update={"max_batch_size": size}) for size in LIVE_SIZES
    }
    settings[OURS] = model.model_copy(
        update={"max_batch_size": SLOTS, "target_latency_ms": 1000 * LIVE_TARGET}
    )
    with ThreadPoolExecutor(len(settings)) as pool:
        runs = {
            name: pool.submit(LiveWorker(setting).run, phases, SEEDS[0], LIVE_TARGET)
            for name, setting in settings.items()
        }
    return {name: run.result() for name, run in runs.items()}


def _name(size: int, wait: float) -> str:
    return f"{size} rows, wait {wait:g} s" if wait else f"{size} rows"


def _rows(found: Mapping[str, Outcome]) -> list[Row]:
    """The best first; for each fixed setting, in what the adaptive one is better."""
    ours = found[OURS]
    return [
        {
            "setting": name,
            "in time %": 100 * one.in_time,
            "tokens/s": one.tokens_per_second,
            "beaten by adaptive": _beaten(one, ours) if not name.startswith(OURS) else "",
        }
        for name, one in sorted(found.items(), key=lambda item: -item[1].in_time)
    ]


def _beaten(one: Outcome, ours: Outcome) -> str:
    better = [
        what
        for what, wins in (
            ("in time", ours.in_time > one.in_time),
            ("tokens/s", ours.tokens_per_second > one.tokens_per_second),
        )
        if wins
    ]
    return " and ".join(better) or "no"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="checks the bench only")
    arguments = parser.parse_args()
    tables = measure(quick=arguments.quick)
    show(tables)
    print(f"in {keep('adaptive', tables, quick=arguments.quick)}")


if __name__ == "__main__":
    main()
