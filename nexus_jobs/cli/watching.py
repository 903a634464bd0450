"""Follows a bulk on the screen until it has ended, through restarts of the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Final, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from nexus_jobs.client import Client, Document, ServerUnreachable
from nexus_jobs.states import TERMINAL, State

T = TypeVar("T")

ENDED: Final = ("completed", "cancelled", "abandoned")
_POLL_SECONDS: Final = 0.5
_LINE_SECONDS: Final = 5.0


class Display(Protocol):
    """Shows how far a bulk is."""

    def show(self, bulk: Document) -> None: ...

    def lost(self, reason: str) -> None:
        """The server does not answer at the moment."""

    def close(self) -> None: ...


class Bar:
    """A progress bar, for a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}"),
            console=console,
        )
        self._task = self._progress.add_task("connecting", total=None, rates="")
        self._progress.start()

    def show(self, bulk: Document) -> None:
        self._progress.update(
            self._task,
            description=bulk["state"],
            total=bulk["total"],
            completed=rows_done(bulk),
            rates=_rates(bulk),
        )

    def lost(self, _reason: str) -> None:
        self._progress.update(self._task, description="no answer, trying again")

    def close(self) -> None:
        self._progress.stop()


class Lines:
    """A line now and then, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed = -_LINE_SECONDS
        self._lost = False

    def show(self, bulk: Document) -> None:
        self._lost = False
        now = time.monotonic()
        if now - self._printed >= _LINE_SECONDS or bulk["state"] in ENDED:
            self._printed = now
            done = f"{rows_done(bulk):,} of {bulk['total']:,} rows"
            self._console.print(f"{bulk['state']}: {done}, {_rates(bulk)}", soft_wrap=True)

    def lost(self, reason: str) -> None:
        if not self._lost:
            self._console.print(f"{reason} Trying again.", soft_wrap=True)
        self._lost = True

    def close(self) -> None:
        pass


def watch(client: Client, bulk_id: str, console: Console) -> Document:
    """Show the bulk's progress until it has ended; the bulk as it is then."""
    display: Display = Bar(console) if console.is_terminal else Lines(console)
    with closing(display):
        while True:
            bulk = patiently(lambda: client.bulk(bulk_id), display.lost)
            display.show(bulk)
            if bulk["state"] in ENDED:
                return bulk
            time.sleep(_POLL_SECONDS)


def patiently(call: Callable[[], T], lost: Callable[[str], None]) -> T:
    """Make a call until the server answers it."""
    while True:
        try:
            return call()
        except ServerUnreachable as error:
            lost(str(error))
            time.sleep(_POLL_SECONDS)


def rows_done(bulk: Document) -> int:
    return sum(bulk["counts"].get(state, 0) for state in TERMINAL)


def rows_failed(bulk: Document) -> int:
    return rows_done(bulk) - int(bulk["counts"].get(State.SUCCEEDED, 0))


def _rates(bulk: Document) -> str:
    eta = bulk["eta_seconds"]
    parts = [
        f"{bulk['rows_per_second']:,.1f} rows/s",
        f"{bulk['tokens_per_second']:,.0f} tokens/s",
        f"ETA {timedelta(seconds=round(eta))}" if eta else "",
        f"{rows_failed(bulk):,} failed" if rows_failed(bulk) else "",
    ]
    return ", ".join(part for part in parts if part)
