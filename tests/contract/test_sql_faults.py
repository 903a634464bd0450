"""What the stores on databases promise when processes compete and databases fail."""

from __future__ import annotations

import multiprocessing
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, insert, make_url, text, update

from nexus_jobs.adapters.database import Database
from nexus_jobs.adapters.prepared import Prepared
from nexus_jobs.adapters.sql_store import SqlStore
from nexus_jobs.adapters.tables import models
from nexus_jobs.errors import ConfigError, Conflict, StoreUnavailable
from nexus_jobs.job import Job, Request
from nexus_jobs.states import Event, State
from tests.contract.stores import RESULT, Store, claim, finish, new_id, new_job

PROCESSES = 4
SECRET = "the prompt nobody may read"


def churn(url: str) -> list[str]:
    """Add, claim and finish jobs; the ids of those that this process ran."""
    store = SqlStore(url, pool_size=2)
    ran: list[str] = []
    for _ in range(25):
        store.add([new_job() for _ in range(4)])
        claimed = claim(store, 4)
        finish(store, claimed, Event.SUCCEED)
        ran += [job.id for job in claimed]
    while claimed := claim(store, 4):
        finish(store, claimed, Event.SUCCEED)
        ran += [job.id for job in claimed]
    store.close()
    return ran


def test_processes_that_write_at_once_share_the_work(database_url: str) -> None:
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        ran = pool.map(churn, [database_url] * PROCESSES, chunksize=1)
    times = Counter(job_id for ids in ran for job_id in ids)
    assert len(times) == PROCESSES * 25 * 4
    assert set(times.values()) == {1}
    store = SqlStore(database_url, pool_size=1)
    stored = store.get_many(list(times))
    store.close()
    assert {(job.state, job.attempt, job.result) for job in stored.values()} == {
        (State.SUCCEEDED, 1, RESULT)
    }


@pytest.mark.parametrize(
    "url", ["sqlite:///{tmp}/missing/nexus.db", "postgresql://nobody@/nothing?host={tmp}"]
)
def test_a_database_that_does_not_answer_is_unavailable(url: str, tmp_path: Path) -> None:
    store = SqlStore(url.format(tmp=tmp_path), pool_size=1)
    with pytest.raises(StoreUnavailable):
        store.get(new_id())
    with pytest.raises(StoreUnavailable):
        store.add([new_job()])
    store.close()


@pytest.mark.parametrize("url", ["mysql://root@localhost/jobs", "sqlite://", "nexus.db", ""])
def test_a_url_of_something_else_is_a_mistake_in_the_settings(url: str) -> None:
    with pytest.raises(ConfigError, match=r"database\.url"):
        SqlStore(url, pool_size=1)


def test_a_full_disk_is_unavailable(sqlite_url: str) -> None:
    database = Database(sqlite_url, pool_size=1)
    with database.write() as connection:
        connection.execute(text("PRAGMA max_page_count = 1"))
    with pytest.raises(StoreUnavailable, match="full"):
        insert_a_megabyte(database)
    database.close()


def test_only_what_need_not_be_durable_does_not_wait_for_the_disk(database_url: str) -> None:
    database = Database(database_url, pool_size=1)
    on_sqlite = database_url.startswith("sqlite")
    setting = "PRAGMA synchronous" if on_sqlite else "SHOW synchronous_commit"
    full, normal = (2, 1) if on_sqlite else ("on", "off")

    def synchronous(block: AbstractContextManager[Connection]) -> int | str:
        with block as connection:
            return connection.scalars(text(setting)).one()

    def submission(*, durable: bool) -> AbstractContextManager[Connection]:
        return database.write_and_tell(lambda: None, once=True, durable=durable)

    assert synchronous(database.write()) == synchronous(database.write_once()) == full
    assert synchronous(database.write_once(durable=False)) == normal
    assert synchronous(submission(durable=True)) == full
    assert synchronous(submission(durable=False)) == normal
    database.close()


def test_sqlite_tells_of_jobs_before_they_are_committed(sqlite_url: str) -> None:
    store = SqlStore(sqlite_url, pool_size=1)
    seen: list[Job | None] = []
    (added,) = store.add([new_job()], lambda jobs: seen.append(store.get(jobs[0].id)))
    assert (seen, store.get(added.id)) == ([None], added)
    store.close()


def test_a_flush_of_sqlite_writes_so_that_its_commit_waits_for_the_disk(sqlite_url: str) -> None:
    store = SqlStore(sqlite_url, pool_size=1)
    store.add([new_job()], durable=False)
    log = Path(f"{make_url(sqlite_url).database}-wal")
    before = log.stat().st_size
    store.flush()
    assert log.stat().st_size > before
    store.close()


def test_what_is_flushed_is_on_the_disk_of_postgresql(plain_postgres: str) -> None:
    """Whoever may only use its own tables can flush."""
    store = SqlStore(plain_postgres, pool_size=1)
    with store._database.read() as connection:
        for _ in range(10):  # the server's own writer comes by now and then
            store.add([new_job()], durable=False)
            written = connection.scalar(text("SELECT pg_current_wal_insert_lsn()"))
            store.flush()
            assert connection.scalar(
                text("SELECT pg_current_wal_flush_lsn() >= CAST(:upto AS pg_lsn)"),
                {"upto": written},
            )
    store.close()


def test_a_store_can_be_closed_while_threads_write(database_url: str) -> None:
    store = SqlStore(database_url, pool_size=1)
    written, enough = threading.Semaphore(0), threading.Event()

    def write() -> None:
        while not enough.is_set():
            store.add([new_job()])
            written.release()

    with ThreadPoolExecutor(2) as threads:
        writing = [threads.submit(write) for _ in range(2)]
        goes_on = all(written.acquire(timeout=5) and store.close() is None for _ in range(200))
        enough.set()
        assert goes_on
        for each in writing:
            each.result()
    store.close()


def test_no_job_is_accepted_while_the_disk_is_full(sqlite_url: str) -> None:
    store = SqlStore(sqlite_url, pool_size=1)
    with store._database.write() as connection:
        connection.execute(text("PRAGMA max_page_count = 1"))
    large = new_job(request=Request(model="m", prompt="x" * 1_000_000))
    with pytest.raises(StoreUnavailable, match="full"):
        store.add([large])
    with store._database.write() as connection:
        connection.execute(text("PRAGMA max_page_count = 1000000"))
    assert store.add([large]) == [store.get(large.id)]
    store.close()


def test_threads_share_the_few_connections_that_write(sql_store: Store) -> None:
    with ThreadPoolExecutor(16) as threads:
        added = list(threads.map(lambda _: sql_store.add([new_job()]), range(100)))
    assert len(sql_store.get_many([job.id for (job,) in added])) == 100


def test_who_gets_no_connection_is_told_so(empty_postgres: str) -> None:
    database = Database(empty_postgres, pool_size=1)
    database._kept[database._single]._patience = 0.01
    turn = database.write_once
    with turn(), turn(), pytest.raises(StoreUnavailable, match="in use"), turn():
        pass
    with turn():
        pass
    database.close()


def test_a_connection_that_is_in_use_at_the_close_is_closed_after_it(empty_postgres: str) -> None:
    database = Database(empty_postgres, pool_size=1)
    with database.write_once() as connection:
        used: Any = connection.connection.dbapi_connection
        database.close()
    assert used.closed


def test_a_restarted_postgresql_is_survived(empty_postgres: str) -> None:
    store = SqlStore(empty_postgres, pool_size=2)
    (job,) = store.add([new_job()])
    disconnect_everybody(empty_postgres)
    assert store.get(job.id) == job
    for _ in range(2):  # the second time, connections that have been used
        disconnect_everybody(empty_postgres)
        assert len(claim(store)) == 1
        disconnect_everybody(empty_postgres)
        store.add([new_job()])
    store.close()


NOBODY = update(models).where(models.c.name == "nobody").values(position=0)


@pytest.mark.parametrize(
    "run",
    [
        lambda connection: connection.execute(NOBODY),
        lambda connection: Prepared(NOBODY.returning(models.c.name)).fetch(connection, {}),
    ],
    ids=["sqlalchemy", "driver"],
)
def test_a_connection_lost_in_a_transaction_is_unavailable_once(
    empty_postgres: str, run: Callable[[Connection], object]
) -> None:
    database = Database(empty_postgres, pool_size=1)
    with pytest.raises(StoreUnavailable, match="terminating connection"):
        lose_a_connection(database, empty_postgres, run)
    with database.write() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    database.close()


def test_a_heartbeat_waits_for_nobody_and_loses_no_lease_by_that(empty_postgres: str) -> None:
    store = SqlStore(empty_postgres, pool_size=2)
    store.add([new_job(), new_job()])
    jobs = claim(store, 2, lease_seconds=-1.0)
    leases = {job.lease for job in jobs}
    with ThreadPoolExecutor(1) as threads, store._database.write() as connection:
        lock = text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE")
        connection.execute(lock, {"id": jobs[0].id})
        beat = threads.submit(store.heartbeat, list(leases), lease_seconds=60.0)
        held = beat.result(timeout=5)
    assert held == leases
    assert list(store.requeue_lapsed()) == [jobs[0].id]
    store.close()


def test_an_error_never_shows_a_prompt(sql_store: Store) -> None:
    job = new_job(request=Request(model="m", prompt=SECRET))
    sql_store.add([job])
    with pytest.raises(Conflict) as caught:
        sql_store.add([job])
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def insert_a_megabyte(database: Database) -> None:
    with database.write() as connection:
        row = {"name": "m", "position": 0, "config": "x" * 1_000_000}
        connection.execute(insert(models), row)


def lose_a_connection(database: Database, url: str, run: Callable[[Connection], object]) -> None:
    with database.write() as connection:
        connection.execute(text("SELECT 1"))
        disconnect_everybody(url)
        run(connection)


def disconnect_everybody(url: str) -> None:
    """What every client notices of a restarted server."""
    engine = create_engine(url)
    with engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    engine.dispose()
