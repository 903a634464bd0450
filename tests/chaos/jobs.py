"""Jobs for platforms that are about to be broken, and what became of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

from sqlalchemy import create_engine, text

from nexus_jobs.chaos import ledger
from nexus_jobs.chaos.checker import check
from nexus_jobs.chaos.ground import Ground
from nexus_jobs.chaos.history import History, Reply, Try, prompt_of
from nexus_jobs.chaos.stack import until
from nexus_jobs.chaos.talks import SLOW
from nexus_jobs.states import State

_numbers = count(10**6)  # beyond those of any load


class Jobs:
    """Jobs that a platform has accepted."""

    def __init__(self, built: Ground) -> None:
        self._built = built
        self.history = History()

    def submit(self, how_many: int, *, words: int, model: str = SLOW) -> list[str]:
        """The ids of new jobs, each as many steps long as its prompt has words."""
        numbers = [next(_numbers) for _ in range(how_many)]
        body = {"model": model, "prompts": [prompt_of(number, words) for number in numbers]}
        answer = self._built.stack.http.post(
            "/api/v1/generate/batch", json=body, headers={"Prefer": "wait=0"}
        )
        assert answer.status_code in (200, 202), answer.text  # 200 if all have ended by then
        ids = [job["id"] for job in answer.json()["data"]]
        pairs = zip(numbers, ids, strict=True)
        self.history.tried(*(Try(number, Reply.ACCEPTED, job_id) for number, job_id in pairs))
        return ids

    def rows(self, columns: str, where: str = "true") -> list[Any]:
        with connected(self._built) as connection:
            return list(connection.execute(text(f"SELECT {columns} FROM jobs WHERE {where}")))

    def all_succeed(self, timeout: float) -> None:
        """Wait for their end; every one succeeds, once."""
        assert set(self.all_end(timeout)) == {State.SUCCEEDED}

    def all_end(self, timeout: float) -> Mapping[State, int]:
        """Wait for their end, one each; how many ended in which state."""
        ids = {one.job_id for one in self.history.tries}
        url = self._built.database.direct_url
        until(lambda: not ledger.unfinished(url), timeout)
        verdict = check(self.history, [row for row in ledger.rows(url) if row.id in ids])
        assert verdict.breaches == []
        return verdict.states


@contextmanager
def connected(built: Ground) -> Iterator[Any]:
    engine = create_engine(built.database.direct_url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()
