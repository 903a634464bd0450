"""All commands of `nexus`, put together."""

from __future__ import annotations

import errno
import os
import sys
from typing import Final, NoReturn

import typer

from nexus_jobs.cli import bulk, chaos, fleet, jobs, models, roles, routes, simulate, up
from nexus_jobs.cli.output import say_error
from nexus_jobs.errors import NexusError

_NOTHING_CAN_BE_WRITTEN: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}

app = typer.Typer(
    help="Runs prompts on your own hardware: one at a time or a million in a file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(up.up)
app.command()(chaos.chaos)
app.command()(simulate.simulate)
app.add_typer(bulk.app, name="bulk")
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.add_typer(routes.app, name="routes")
app.command()(fleet.workers)
app.add_typer(fleet.scheduler_app, name="scheduler", rich_help_panel="Single roles")
for role in (roles.api, roles.worker, roles.migrate, roles.flower):
    app.command(rich_help_panel="Single roles")(role)


def run() -> None:
    """Run the command; an error of ours, or of a file, becomes a sentence and exit code 1.

    Other errors are bugs and keep their traceback.
    """
    try:
        app()
    except NexusError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is not None:
            _fail(f"{error.filename}: {error.strerror}")
        if error.errno in _NOTHING_CAN_BE_WRITTEN:
            _fail(f"cannot write: {error.strerror}")
        raise
    finally:
        _end_output()


def _fail(message: str) -> NoReturn:
    say_error(f"Error: {message}")
    sys.exit(1)


def _end_output() -> None:
    """Drop output that nobody takes; Python would try again and change the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
