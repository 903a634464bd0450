"""What the platform adds to each job: the simulated engine at 0 ms, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadtests.http_clients import Load
from loadtests.http_load import ECHO, accepted, await_end, fate, submit_load, sync_load
from loadtests.processes import cpu_by_role
from loadtests.report import Row, Tables, milliseconds
from loadtests.stacks import postgres, running
from tests.e2e.stack import Stack

MODEL: Final = {"name": "simulated", "type": "simulated", "max_batch_size": 64}
BODY: Final[dict[str, Any]] = ECHO | {"model": "simulated"}
SUBMITTERS: Final = 32


WAITING: Final = "POST /generate"
SUBMITTING: Final = "POST /jobs, until all have ended"
COST: Final = "Processor seconds for 1,000 jobs"
LOAD: Final = "the load itself"


def measure(*, quick: bool) -> Tables:
    """Every job is on the disk before its 202, and every answer is compared with its request."""
    tables: dict[str, list[Row]] = {WAITING: [], SUBMITTING: [], COST: []}
    with running([MODEL]) as stack:
        _measure(_Subject("SQLite", stack, [stack.pid], tables), quick=quick)
    with postgres() as (url, server), running([MODEL], database=url) as stack:
        _measure(_Subject("PostgreSQL", stack, [stack.pid, server], tables), quick=quick)
    return tables


def _measure(subject: _Subject, *, quick: bool) -> None:
    sync_load(subject.stack.url, 32, 1 if quick else 4, BODY)  # warms it up
    for clients in (1, 32, 128):
        subject.wait(clients, 1 if quick else 10)
    subject.submit(1 if quick else 60)


@dataclass(frozen=True, slots=True)
class _Subject:
    """A platform, the processes that all of its others descend from, and what was found."""

    database: str
    stack: Stack
    roots: Sequence[int]
    tables: dict[str, list[Row]]

    def wait(self, clients: int, seconds: float) -> None:
        """Clients that wait for each answer."""
        before = cpu_by_role(*self.roots)
        load = sync_load(self.stack.url, clients, seconds, BODY)
        used = cpu_by_role(*self.roots) - before
        figures = {
            "clients": clients,
            "answers/s": load.rate,
            "not right": len(load.answers) - len(load.right),
        }
        self._note(WAITING, figures, load)
        self._note_cost("generate", clients, used, load)

    def submit(self, seconds: float) -> None:
        """Clients that wait for each 202; then all rows are looked up."""
        before = cpu_by_role(*self.roots)
        load = submit_load(self.stack.url, SUBMITTERS, seconds, BODY)
        ids = accepted(load)
        await_end(self.stack.http, ids[-1])
        used = cpu_by_role(*self.roots) - before
        end = fate(self.stack.http, ids)
        figures = {
            "clients": SUBMITTERS,
            "accepted": len(ids),
            "accepted/s": load.rate,
            "ended/s": end.rate,
            "in seconds": end.seconds,
            "lost": end.lost,
        }
        self._note(SUBMITTING, figures, load)
        self._note_cost("submit", SUBMITTERS, used, load)

    def _note(self, title: str, figures: Row, load: Load) -> None:
        row = {"database": self.database, **figures, **milliseconds(load.latency)}
        self.tables[title].append(row)

    def _note_cost(self, work: str, clients: int, used: Mapping[str, int], load: Load) -> None:
        """The database server's stand apart: it is not ours."""
        jobs = len(load.right)
        by_role = {role: spent / jobs for role, spent in sorted(used.items())}
        ours = sum(spent for role, spent in by_role.items() if role != "postgres")
        row = {"database": self.database, "work": work, "clients": clients, "platform": ours}
        load_cost = {LOAD: 1000 * load.generator_cpu / jobs}
        self.tables[COST].append(row | by_role | load_cost)
