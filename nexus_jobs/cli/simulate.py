"""`nexus simulate`: a day of a large fleet, under several ways of assigning models to workers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final

import typer

from nexus_jobs.cli.output import show_document, show_table
from nexus_jobs.errors import ConfigError
from nexus_jobs.spelling import did_you_mean

_COLUMNS: Final = (
    "assignment", "utilisation", "mean wait s", "p50", "p95", "p99", "loads", "unserved jobs",
)  # fmt: skip


def simulate(
    workers: Annotated[int, typer.Option(min=1)] = 1000,
    models: Annotated[int, typer.Option(min=1)] = 100,
    hours: Annotated[float, typer.Option(min=0.1)] = 24.0,
    load: Annotated[
        float, typer.Option(min=0.01, help="Part of all workers' time that the jobs take.")
    ] = 0.75,
    seed: Annotated[int, typer.Option(help="Makes another day.")] = 7,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="policy, oracle, least-loaded or static; repeatable; all by default."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Simulate a day of a fleet: how long jobs wait, and how often models move.

    `policy` is what the scheduler does, `static` the best assignment for the day's mean that never
    moves, `least-loaded` moves freely, and `oracle` is the policy with the next minutes known.
    """
    from nexus_jobs.simulation.planners import PLANNERS
    from nexus_jobs.simulation.run import compare
    from nexus_jobs.simulation.traffic import Scenario

    names = policy or list(PLANNERS)
    for name in names:
        if name not in PLANNERS:
            raise ConfigError(f"--policy: there is no {name!r}" + did_you_mean(name, PLANNERS))
    scenario = Scenario(workers=workers, models=models, hours=hours, load=load, seed=seed)
    outcomes = compare(scenario, names)
    if as_json:
        show_document({name: asdict(outcome) for name, outcome in outcomes.items()})
        return
    show_table(
        _COLUMNS,
        (
            (
                name,
                f"{outcome.utilisation:.1%}",
                f"{outcome.mean:.2f}",
                *(f"{seconds:.1f}" for seconds in (outcome.p50, outcome.p95, outcome.p99)),
                outcome.loads,
                f"{outcome.unserved:.0f}",
            )
            for name, outcome in outcomes.items()
        ),
    )
