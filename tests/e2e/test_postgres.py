"""The platform on PostgreSQL instead of the embedded SQLite."""

import os
import signal

import psycopg
import pytest
from sqlalchemy import make_url

from tests.e2e.stack import SLOW, until
from tests.e2e.test_bulk import output, upload, wait_for, write_csv


@pytest.fixture
def database(postgres_url):
    """The URL of a database of its own, and a connection to it."""
    url = make_url(postgres_url)
    with psycopg.connect(_conninfo(url), autocommit=True) as server:
        server.execute("CREATE DATABASE platform")
    url = url.set(database="platform")
    with psycopg.connect(_conninfo(url), autocommit=True) as connection:
        yield url.render_as_string(hide_password=False), connection


def _conninfo(url) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def test_a_bulk_survives_a_killed_worker(make_stack, database, tmp_path):
    url, connection = database
    stack = make_stack([SLOW])
    stack.env["NEXUS_DATABASE__URL"] = url
    stack.start(workers=2)
    rows = [
        {"prompt": f"row {i} of the file", "max_tokens": 20, "ignore_eos": "true"}
        for i in range(300)
    ]
    bulk = upload(stack, write_csv(tmp_path / "in.csv", rows), model="slow", cache="no")
    status = f"/api/v1/bulk/{bulk['id']}"
    until(lambda: stack.http.get(status).json()["counts"]["succeeded"] >= 20)
    (pid,) = connection.execute("SELECT pid FROM workers ORDER BY id").fetchone()
    os.kill(pid, signal.SIGKILL)
    wait_for(stack, bulk["id"])
    answers = output(stack, bulk["id"])
    assert [row["prompt"] for row in answers] == [row["prompt"] for row in rows]
    assert all(row["output"].startswith(row["prompt"]) for row in answers)
    assert connection.execute("SELECT count(*) FROM results").fetchone() == (300,)
    assert stack.stop() == 0
