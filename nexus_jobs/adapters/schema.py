"""The database's schema: bring it up to date, ask how far it is, and compare it with the tables."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from nexus_jobs.adapters.database import Database
from nexus_jobs.adapters.sql_engines import parse_url
from nexus_jobs.adapters.tables import metadata
from nexus_jobs.errors import ConfigError, StoreUnavailable
from nexus_jobs.urls import without_passwords


def upgrade(url: str) -> None:
    """Bring the schema to the newest revision; several processes may do so at once.

    Raises:
        ConfigError: a newer version has made the database, or its folder cannot be made.
        StoreUnavailable: the database does not answer, or another migration does not end.
    """
    place = without_passwords(url)
    _make_folder(url)
    database = Database(url, pool_size=1)
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    try:
        database.prepare()
        with database.write() as connection:
            if _is_newer(connection, config):
                raise ConfigError(
                    f"{place}: this database was made by a newer version of Nexus Jobs"
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except StoreUnavailable as error:
        raise StoreUnavailable(f"{place}: {error}") from error
    finally:
        database.close()


def _is_newer(connection: Connection, config: Config) -> bool:
    """Whether the schema is at a revision that is not among ours."""
    revision = MigrationContext.configure(connection).get_current_revision()
    ours = ScriptDirectory.from_config(config).walk_revisions()
    return revision is not None and revision not in {script.revision for script in ours}


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
        folder = Path(parsed.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror
            raise ConfigError(f"the folder {folder} cannot be made: {reason}") from error
