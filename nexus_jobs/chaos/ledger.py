"""Reads what the database holds, past everything that the platform is made of."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from sqlalchemy import URL, create_engine, text

from nexus_jobs.chaos.checker import Row
from nexus_jobs.states import State

_ROWS = text(
    "SELECT jobs.id, prompt, state, attempt, results.text FROM jobs"
    " LEFT JOIN results ON results.job_id = jobs.id ORDER BY jobs.id"
)
_OPEN = text("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")


def rows(url: URL) -> Iterator[Row]:
    """All jobs; one with several results has them all."""
    engine = create_engine(url, hide_parameters=True)
    with engine.connect() as connection:
        for _, same in groupby(connection.execute(_ROWS), key=lambda row: row.id):
            lines = list(same)
            first = lines[0]
            yield Row(
                id=first.id,
                prompt=first.prompt,
                state=State(first.state),
                attempt=first.attempt,
                texts=tuple(line.text for line in lines if line.text is not None),
            )
    engine.dispose()


def unfinished(url: URL) -> int:
    """How many jobs have not ended."""
    engine = create_engine(url)
    with engine.connect() as connection:
        count: int = connection.scalar(_OPEN) or 0
    engine.dispose()
    return count
