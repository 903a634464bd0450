"""A throw-away platform with all that can be broken about it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import URL

from nexus_jobs.adapters.sql_engines import parse_url
from nexus_jobs.chaos.disk import Disk, Quota, SmallDisk
from nexus_jobs.chaos.servers import OnServer, Postgres, Redis, Sqlite
from nexus_jobs.chaos.stack import Stack
from nexus_jobs.chaos.talks import MODELS
from nexus_jobs.errors import ConfigError

LEASE_SECONDS: Final = 3.0
"""Short, so that many leases lapse in a minute."""
WORKERS: Final = 2
SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """`postgres` is the server if it is ours to restart; `disk` is that of the data folder."""

    folder: Path
    stack: Stack
    redis: Redis
    database: Sqlite | OnServer
    postgres: Postgres | None
    disk: Disk


@contextmanager
def ground(database: str, settings: Mapping[str, str] | None = None) -> Iterator[Ground]:
    """A platform that runs; `database` is sqlite, postgresql, or the URL of a PostgreSQL server.

    A server that is given gets a database of its own, which is dropped at the end. `settings` are
    environment variables.

    Raises:
        ConfigError: there is no such server.
    """
    server = None if database in (SQLITE, POSTGRESQL) else _server(database)
    with ExitStack() as parts:
        folder = Path(tempfile.mkdtemp(prefix="nexus-chaos-"))
        parts.callback(shutil.rmtree, folder, ignore_errors=True)
        redis = parts.enter_context(closing(Redis(folder)))
        mounted, postgres = None, None
        base: Sqlite | OnServer
        if database == SQLITE:
            mounted = _mount(parts, folder / "data")
            base = Sqlite(folder / "data")
        else:
            if server is None:
                postgres = parts.enter_context(closing(Postgres()))
                server = postgres.url
            base = OnServer(server)
            parts.callback(base.close)
        stack = Stack(folder, MODELS, {**_env(redis), **base.env, **(settings or {})})
        parts.callback(_end, stack)
        stack.start(workers=WORKERS)
        yield Ground(
            folder=folder,
            stack=stack,
            redis=redis,
            database=base,
            postgres=postgres,
            disk=mounted or Quota(stack),
        )


def _server(url: str) -> URL:
    parsed = parse_url(url)
    if parsed.get_backend_name() != POSTGRESQL:
        raise ConfigError("the URL is for a PostgreSQL server; for SQLite write --database sqlite")
    return parsed


def _env(redis: Redis) -> dict[str, str]:
    return {
        "NEXUS_JOBS__LEASE_SECONDS": str(LEASE_SECONDS),
        "NEXUS_WORKER__GRACE_SECONDS": "2",
        "NEXUS_SCHEDULER__IMPORT_TIMEOUT_SECONDS": "10",
        "NEXUS_QUEUE__REDIS_URL": redis.url,
    }


def _mount(parts: ExitStack, folder: Path) -> SmallDisk | None:
    try:
        return parts.enter_context(closing(SmallDisk(folder)))
    except OSError:  # most people are not root
        return None


def _end(stack: Stack) -> None:
    stack.http.close()
    if stack.running:
        stack.stop()
