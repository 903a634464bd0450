"""`nexus jobs`: single jobs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from enum import StrEnum
from itertools import product
from typing import Annotated, Final

import typer

from nexus_jobs.cli.options import DEFAULT_URL, MaxTokens, Priority, Seed, Temperature, Url, given
from nexus_jobs.cli.output import show_document, show_table
from nexus_jobs.client import LONGEST_WAIT, Client, Document, Refused
from nexus_jobs.states import TERMINAL, State

app = typer.Typer(help="Single jobs.", no_args_is_help=True)

PAUSE: Final = 0.5
"""Seconds between questions to a server that answers them at once."""

PAGE: Final = 200
"""Jobs that a list gives at once."""

IdempotencyKey = Annotated[
    str | None, typer.Option(help="Any text; the same command sent again makes no second job.")
]


class Open(StrEnum):
    """What can be cancelled."""

    QUEUED = State.QUEUED
    RUNNING = State.RUNNING


class Failed(StrEnum):
    """What can be retried."""

    FAILED = State.FAILED
    DEAD = State.DEAD


JobId = Annotated[str, typer.Argument(metavar="JOB")]
JobIds = Annotated[list[str] | None, typer.Argument(metavar="JOB...")]


@app.command()
def submit(
    model: str,
    prompt: str,
    wait: Annotated[bool, typer.Option("--wait", help="Wait, and print the answer.")] = False,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    priority: Priority = None,
    idempotency_key: IdempotencyKey = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Submit one prompt; prints the job's id, or with --wait the answer."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "priority": priority,
    }
    with Client(url) as client:
        job = client.submit_job(given(body), idempotency_key)
        if wait:
            _print_answer(_ended(client, job))
        else:
            typer.echo(job["id"])


@app.command("list")
def list_jobs(
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model.")] = None,
    bulk: Annotated[str | None, typer.Option(help="Only jobs of this bulk.")] = None,
    limit: int = 20,
    url: Url = DEFAULT_URL,
) -> None:
    """List jobs, newest first."""
    which = {"state": state, "model": model, "bulk": bulk, "limit": limit}
    columns = ("id", "model", "state", "attempt", "cached", "error", "submitted_at", "finished_at")
    with Client(url) as client:
        jobs = client.jobs(given(which))
    rows = ({**job, "error": job["error"] and job["error"]["code"]} for job in jobs)
    show_table(columns, ([row[column] for column in columns] for row in rows))


@app.command()
def show(job: JobId, url: Url = DEFAULT_URL) -> None:
    """Print all about a job, with its answer."""
    with Client(url) as client:
        show_document(client.job(job))


@app.command()
def cancel(
    jobs: JobIds = None,
    state: Annotated[Open | None, typer.Option(help="All jobs in this state.")] = None,
    model: Annotated[str | None, typer.Option(help="All jobs of this model.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Cancel jobs that have not ended."""
    if bool(jobs) == bool(state or model):
        raise typer.BadParameter("name the jobs, or choose them with --state and --model")
    with Client(url) as client:
        # those that wait first, or they would run meanwhile
        chosen = jobs or [
            job["id"]
            for each, shadow in product([state] if state else Open, ("no", "yes"))
            for job in _all(client, state=each, model=model, shadow=shadow)
        ]
        cancelled = _each(chosen, client.cancel_job, named=bool(jobs))
    typer.echo(f"cancelled: {cancelled}")


@app.command()
def retry(
    jobs: JobIds = None,
    state: Annotated[Failed | None, typer.Option(help="All jobs in this state.")] = None,
    model: Annotated[str | None, typer.Option(help="Of these, the jobs of this model.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Another prompt.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    priority: Priority = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Run failed or dead jobs again, as they were or with what is given here."""
    if bool(jobs) == bool(state):
        raise typer.BadParameter("name the jobs, or choose them with --state")
    changes = {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "priority": priority,
    }
    with Client(url) as client:
        chosen = jobs or [job["id"] for job in _all(client, state=state, model=model)]
        again = _each(chosen, lambda job: client.retry_job(job, given(changes)), named=bool(jobs))
    typer.echo(f"queued again: {again}")


def _all(client: Client, **which: str | None) -> list[Document]:
    """Read to the end before the first is changed, since that takes it off the list."""
    return list(client.all_jobs(given(which | {"limit": PAGE})))


def _each(jobs: list[str], change: Callable[[str], object], *, named: bool) -> int:
    """How many were changed: a job that was not named, but found, may have moved on meanwhile."""
    changed = 0
    for job in jobs:
        try:
            change(job)
            changed += 1
        except Refused as error:
            if named or error.code != "conflict":
                raise
    return changed


def _ended(client: Client, job: Document) -> Document:
    while job["state"] not in TERMINAL:
        asked = time.monotonic()
        job = client.job(job["id"], wait=LONGEST_WAIT)
        if time.monotonic() - asked < PAUSE:  # the server has no place left for who waits
            time.sleep(PAUSE)
    return job


def _print_answer(job: Document) -> None:
    if job["result"]:
        typer.echo(job["result"]["text"])
        return
    reason = f": {job['error']['message']}" if job["error"] else ""
    typer.echo(f"job {job['id']} is {job['state']}{reason}", err=True)
    sys.exit(1)
