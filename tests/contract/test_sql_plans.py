"""The statements that run all day find their rows through the indexes made for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from sqlalchemy import Engine, event, text

from nexus_jobs.adapters import prepared
from nexus_jobs.adapters.database import Database
from nexus_jobs.job import Bulk, Cached, Ended, Idempotency
from nexus_jobs.states import Event
from tests.contract.stores import RESULT, Store, claim, finish, new_bulk, new_job

Statement = tuple[str, Any]


@contextmanager
def statements() -> Iterator[list[Statement]]:
    """What is sent to the database meanwhile, as the driver gets it."""
    sent: list[Statement] = []

    def note(_c: object, _cursor: object, sql: str, parameters: Any, *_: object) -> None:
        sent.append((sql, parameters))

    bind = prepared.Parameters.bind

    def bound(parameters: prepared.Parameters, values: Mapping[str, Any]) -> Any:
        sent.append((parameters.sql, bind(parameters, values)))
        return sent[-1][1]

    event.listen(Engine, "before_cursor_execute", note)
    with patch.object(prepared.Parameters, "bind", bound):
        yield sent
    event.remove(Engine, "before_cursor_execute", note)


def plan(database: Database, statement: Statement) -> str:
    with database.read() as connection:
        explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
        rows = connection.exec_driver_sql(f"{explain} {statement[0]}", statement[1])
        return "\n".join(str(row[-1]) for row in rows)


def fill(store: Store, database: Database) -> Bulk:
    """Ten bulks of 400 ended rows, 200 running and 600 queued jobs of two models, 500 keys."""
    answered = Ended(result=RESULT, cached=Cached.REDIS)
    for _ in range(10):
        bulk = store.add_bulk(new_bulk())
        rows = range(400)
        store.add([new_job(bulk_id=bulk.id, bulk_index=i, ended=answered) for i in rows])
    store.add([new_job() for _ in range(400)])
    for i, job in enumerate(claim(store, 300)[:100]):
        finish(store, [job], Event.SUCCEED, fingerprint=f"f{i}")
    store.add([new_job(route="r") for _ in range(50)])
    store.add([new_job(model="n", expires_in=1e6 if i % 9 else None) for i in range(500)])
    kept = {"digest": "d", "seconds": 1e6}
    store.add([new_job(idempotency=Idempotency(key=str(i), **kept)) for i in range(500)])
    tidy(database)
    return bulk


def tidy(database: Database) -> None:
    """As the server's own housekeeping would do."""
    with database.read() as connection:
        connection.execute(text("VACUUM"))
        connection.execute(text("ANALYZE"))


def give_up(store: Store, bulk_id: str) -> None:
    assert store.cancel_bulk(bulk_id)
    store.cancel_rows(bulk_id, at_most=9)


CALLS: list[tuple[str, Callable[[Store, str], object]]] = [
    ("ix_jobs_queue", lambda store, _: store.claim("m", 8, worker="w", lease_seconds=9.0)),
    ("ix_jobs_queue", lambda store, _: claim(store, suspects=True)),
    ("ix_jobs_routed", lambda store, _: store.reroute("r", "m", "n", at_most=8)),
    ("ix_jobs_queue", lambda store, _: store.backlog(["m", "n"], 256)),
    ("ix_jobs_leases", lambda store, _: store.requeue_lapsed()),
    ("ix_jobs_expiry", lambda store, _: store.expire_overdue()),
    ("uq_jobs_bulk_row", lambda store, bulk_id: list(store.bulk_rows(bulk_id, chunk=100))),
    ("ix_jobs_bulk_progress", lambda store, bulk_id: store.bulk_progress(bulk_id)),
    ("ix_jobs_bulk_progress", lambda store, bulk_id: give_up(store, bulk_id)),
    ("ix_results_fingerprint", lambda store, _: store.find_results(["f1"], max_age=9.0)),
    ("ix_idempotency_keys_expiry", lambda store, _: store.forget_keys()),
]


def test_each_statement_uses_its_index(sql_store: Store, database_url: str) -> None:
    database = Database(database_url, pool_size=1)
    bulk = fill(sql_store, database)
    for index, call in CALLS:
        with statements() as sent:
            call(sql_store, bulk.id)
        reading = [
            each for each in sent if re.search("FROM (jobs|results|idempotency_keys)", each[0])
        ]
        plans = "\n".join(plan(database, statement) for statement in reading)
        assert index in plans, plans
    database.close()


def test_the_rows_left_of_a_bulk_are_found_by_an_index_though_nearly_all_rows_are_its(
    sql_store: Store, database_url: str
) -> None:
    """Otherwise each group of rows to cancel would pass by all that were cancelled before."""
    database = Database(database_url, pool_size=1)
    bulk = sql_store.add_bulk(new_bulk())
    sql_store.add([new_job(bulk_id=bulk.id, bulk_index=i) for i in range(2000)])
    tidy(database)
    sql_store.cancel_bulk(bulk.id)
    with statements() as sent:
        sql_store.cancel_rows(bulk.id, at_most=10)
    (choosing,) = (each for each in sent if "LIMIT" in each[0])
    assert plan(database, choosing).count("ix_jobs_bulk_progress") == 2
    database.close()
