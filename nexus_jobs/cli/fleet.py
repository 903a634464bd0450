"""`nexus workers` and `nexus scheduler`: who serves what, and why."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from nexus_jobs.cli import roles
from nexus_jobs.cli.options import DEFAULT_URL, Url
from nexus_jobs.cli.output import show_table
from nexus_jobs.client import Client, Document

scheduler_app = typer.Typer(invoke_without_command=True)

_WORKER: Final = ("worker", "host", "device", "seen")
_MODEL: Final = ("model", "state", "engine", "slots", "tokens/s", "step ms", "memory MB", "reason")
_DECISION: Final = ("at", "action", "model", "worker", "reason")


def workers(url: Url = DEFAULT_URL) -> None:
    """List the workers and what they do, a line for each model on each."""
    with Client(url) as client:
        rows = [row for worker in client.workers() for row in _rows(worker)]
    show_table((*_WORKER, *_MODEL), rows)


def _rows(worker: Document) -> list[tuple[object, ...]]:
    name = f"{worker['id']} (draining)" if worker["draining"] else worker["id"]
    start = (name, worker["host"], worker["device"], worker["seen_at"])
    placed = [(*start, *_placement(model)) for model in worker["models"]]
    return placed or [(*start, *[None] * len(_MODEL))]


def _placement(model: Document) -> tuple[object, ...]:
    memory = model["memory_mb"]
    return (
        model["model"],
        model["state"],
        model["engine"],
        f"{model['running']}/{model['slots']}",
        f"{model['tokens_per_second']:.0f}",
        f"{model['step_ms']:.1f}",
        None if memory is None else f"{memory:.0f}",
        model["reason"],
    )


@scheduler_app.callback()
def scheduler(context: typer.Context) -> None:
    """Run the scheduler, or ask it for its reasons."""
    if context.invoked_subcommand is None:
        roles.scheduler()


@scheduler_app.command()
def explain(
    decisions: Annotated[int, typer.Option(min=0, max=1000, help="How many to show.")] = 20,
    url: Url = DEFAULT_URL,
) -> None:
    """Show who is to serve what, the latest decisions with their reasons, and who is missing."""
    with Client(url) as client:
        schedule = client.assignments(decisions)
    for name, columns in (
        ("data", ("worker", "model", "since")),
        ("decisions", _DECISION),
        ("recommendations", ("model", "replicas", "reason")),
    ):
        typer.echo("Assignments:" if name == "data" else f"\n{name.capitalize()}:")
        show_table(columns, [[one[column] for column in columns] for one in schedule[name]])
