"""`nexus chaos`: break a throw-away platform on purpose, and see whether anything is lost."""

from __future__ import annotations

import logging
import secrets
import signal
import sys
from typing import Annotated, Any

import typer

from nexus_jobs.cli.output import console
from nexus_jobs.errors import ConfigError
from nexus_jobs.telemetry import configure_logging


def chaos(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long things break.")] = 1.0,
    rate: Annotated[float, typer.Option(min=1, help="Jobs a second to offer.")] = 200.0,
    database: Annotated[
        str, typer.Option(help="sqlite, postgresql, or the URL of a PostgreSQL server.")
    ] = "sqlite",
    seed: Annotated[int | None, typer.Option(help="Repeats the faults of an earlier run.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Part of the name of a fault; repeatable.")
    ] = None,
) -> None:
    """Break a throw-away platform under load; fails if a job was lost, doubled or misreported.

    Nothing of yours is touched: the platform is a new one, on free ports of this machine. A
    PostgreSQL server that is given gets a database of its own, which is dropped at the end.
    """
    try:
        from nexus_jobs.chaos.run import run
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed; pip install 'nexus-jobs[chaos]'"
        raise ConfigError(message) from error
    configure_logging(logging.ERROR)
    signal.signal(signal.SIGTERM, _stop)
    report = run(
        60 * minutes,
        rate=rate,
        database=database,
        seed=secrets.randbelow(10_000) if seed is None else seed,
        only=only or (),
        say=console.print,
    )
    for line in report.lines():
        console.print(line, soft_wrap=True)
    if not report.kept:
        sys.exit(1)


def _stop(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt
