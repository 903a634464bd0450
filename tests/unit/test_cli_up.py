"""What `nexus up` would start, and in which order it would stop it."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from nexus_jobs.cli.up import roles, valkey, whereabouts
from nexus_jobs.config import (
    DatabaseSettings,
    QueueSettings,
    ServerSettings,
    Settings,
    WorkerSettings,
)

SETTINGS = Settings(
    data_dir=Path("somewhere"),
    server=ServerSettings(port=9001),
    queue=QueueSettings(embedded_port=9002),
    worker=WorkerSettings(grace_seconds=40),
)


def test_the_api_stops_first_then_the_workers_the_scheduler_and_valkey() -> None:
    children = sorted([valkey(SETTINGS), *roles(SETTINGS, 2)], key=lambda child: child.drain)
    stages = [[c.name for c in stage] for _, stage in groupby(children, lambda c: c.drain)]
    assert stages == [["api"], ["w1", "w2"], ["scheduler"], ["valkey"]]


def test_workers_have_the_grace_of_the_settings_and_a_little_more() -> None:
    workers = [child for child in roles(SETTINGS, 2) if child.name.startswith("w")]
    assert all(40 < worker.grace <= 50 for worker in workers)


def test_workers_know_with_how_many_they_share_the_memory() -> None:
    three = SETTINGS.model_copy(update={"worker": WorkerSettings(per_machine=3)})
    assert {child.env["NEXUS_WORKER__PER_MACHINE"] for child in roles(three, 1)} == {"3"}


def test_children_run_this_python_and_see_the_same_settings() -> None:
    for child in roles(SETTINGS, 1):
        assert child.command[:3] == [sys.executable, "-m", "nexus_jobs.cli"]
        assert child.env["NEXUS_SERVER__PORT"] == "9001"
        assert Path(child.env["NEXUS_DATA_DIR"]) == Path("somewhere").absolute()


def test_valkey_keeps_nothing_drops_nothing_and_listens_to_this_machine_only() -> None:
    command = " ".join(valkey(SETTINGS).command)
    for option in ("--bind 127.0.0.1", "--port 9002", "--save ", "--appendonly no"):
        assert option in command
    assert "--maxmemory-policy noeviction" in command


def test_no_password_is_shown_where_things_are() -> None:
    databases = DatabaseSettings(url="postgresql://db.test/nexus?user=u&password=s3cret")
    queue = QueueSettings(redis_url="redis://u:s3cret@redis.test/0")
    lines = "\n".join(
        whereabouts(SETTINGS.model_copy(update={"database": databases, "queue": queue}), [])
    )
    assert "db.test" in lines
    assert "redis.test" in lines
    assert "s3cret" not in lines
