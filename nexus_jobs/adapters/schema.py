"""The database's schema: bring it up to date, ask how far it is, and compare it with the tables."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from nexus_jobs.adapters.database import Database
from nexus_jobs.adapters.sql_engines import parse_url
from nexus_jobs.adapters.tables import metadata


def upgrade(url: str) -> None:
    """Bring the schema to the newest revision; several processes may do so at once.

    Raises:
        StoreUnavailable: the database does not answer, or another migration does not end.
    """
    _make_folder(url)
    database = Database(url, pool_size=1)
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    try:
        database.prepare()
        with database.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        database.close()


def current(url: str) -> str | None:
    """The revision the schema is at; None if the database is empty."""
    database = Database(url, pool_size=1)
    try:
        with database.read() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        database.close()


def drift(url: str) -> list[Any]:
    """What differs between the schema and the tables, as Alembic tells it; empty if nothing."""
    database = Database(url, pool_size=1)
    try:
        with database.read() as connection:
            return list(compare_metadata(MigrationContext.configure(connection), metadata))
    finally:
        database.close()


def _make_folder(url: str) -> None:
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
