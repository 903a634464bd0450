"""The schema's history leads to the tables, on every database and by every way."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

import migrations
from nexus_jobs.adapters import schema
from nexus_jobs.adapters.sql_store import SqlStore
from nexus_jobs.errors import ConfigError, StoreUnavailable


def newest() -> str | None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return ScriptDirectory.from_config(config).get_current_head()


def change(url: str, statement: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def test_an_upgraded_database_is_what_the_tables_say(url: str) -> None:
    schema.upgrade(url)
    assert schema.current(url) == newest()
    assert schema.drift(url) == []


def test_an_upgrade_can_be_repeated(url: str) -> None:
    schema.upgrade(url)
    schema.upgrade(url)
    assert schema.drift(url) == []


@pytest.mark.parametrize(
    "statement",
    [
        "DROP INDEX ix_jobs_queue",
        "ALTER TABLE jobs ADD COLUMN stray INTEGER",
        "ALTER TABLE jobs DROP COLUMN worker",
        "DROP TABLE workers",
    ],
)
def test_drift_is_noticed(url: str, statement: str) -> None:
    schema.upgrade(url)
    change(url, statement)
    assert len(schema.drift(url)) == 1


def test_processes_that_upgrade_at_once_all_succeed(url: str) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.map(schema.upgrade, [url] * 6, chunksize=1)
    assert schema.current(url) == newest()
    assert schema.drift(url) == []


def test_a_failed_upgrade_leaves_nothing_behind(url: str) -> None:
    change(url, "CREATE TABLE workers (id TEXT)")
    with pytest.raises(StoreUnavailable, match="workers"):
        schema.upgrade(url)
    engine = create_engine(url)
    assert inspect(engine).get_table_names() == ["workers"]
    engine.dispose()


def test_a_store_without_its_schema_is_unavailable(url: str) -> None:
    assert schema.current(url) is None
    store = SqlStore(url, pool_size=1)
    with pytest.raises(StoreUnavailable, match="jobs"):
        store.backlog(["m"], 9)
    store.close()


def test_an_upgrade_makes_the_folder_of_a_sqlite_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/folder/nexus.db"
    schema.upgrade(url)
    assert schema.current(url) == newest()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(url: str) -> None:
    schema.upgrade(url)
    change(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="made by a newer version"):
        schema.upgrade(url)
    assert schema.current(url) == "9999"


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "nexus.db"
    file.write_text("notes of mine\n" * 100)
    with pytest.raises(StoreUnavailable, match=f"{file}: file is not a database"):
        schema.upgrade(f"sqlite:///{file}")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"folder {tmp_path}/file/data cannot be made"):
        schema.upgrade(f"sqlite:///{tmp_path}/file/data/nexus.db")
