"""A throw-away platform with all that can be broken about it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import make_url

from nexus_jobs.chaos.disk import SmallDisk
from nexus_jobs.chaos.offer import MODELS
from nexus_jobs.chaos.servers import OnServer, Postgres, Redis, Sqlite
from nexus_jobs.chaos.stack import Stack

LEASE_SECONDS: Final = 3.0
"""Short, so that many leases lapse in a minute."""
WORKERS: Final = 2
SQLITE, POSTGRESQL = "sqlite", "postgresql"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """`postgres` is the server if it is ours to restart, `disk` the data folder's if we could mount
    one.
    """

    folder: Path
    stack: Stack
    redis: Redis
    database: Sqlite | OnServer
    postgres: Postgres | None
    disk: SmallDisk | None


@contextmanager
def ground(database: str) -> Iterator[Ground]:
    """A platform that runs; `database` is sqlite, postgresql, or the URL of a PostgreSQL server.

    A server that is given gets a database of its own, which is dropped at the end.
    """
    with ExitStack() as parts:
        folder = Path(tempfile.mkdtemp(prefix="nexus-chaos-"))
        parts.callback(shutil.rmtree, folder, ignore_errors=True)
        redis = parts.enter_context(closing(Redis(folder)))
        postgres = parts.enter_context(closing(Postgres())) if database == POSTGRESQL else None
        disk = None
        if database == SQLITE:
            base: Sqlite | OnServer = Sqlite(folder / "data")
            disk = _disk(parts, folder / "data")
        else:
            base = OnServer(postgres.url if postgres else make_url(database))
        parts.enter_context(closing(base))
        env = {
            "NEXUS_JOBS__LEASE_SECONDS": str(LEASE_SECONDS),
            "NEXUS_WORKER__GRACE_SECONDS": "2",
            "NEXUS_SCHEDULER__IMPORT_TIMEOUT_SECONDS": "10",
            "NEXUS_QUEUE__REDIS_URL": redis.url,
        }
        stack = Stack(folder, MODELS, {**env, **base.env})
        parts.callback(_end, stack)
        stack.start(workers=WORKERS)
        yield Ground(
            folder=folder, stack=stack, redis=redis, database=base, postgres=postgres, disk=disk
        )


def _disk(parts: ExitStack, folder: Path) -> SmallDisk | None:
    try:
        return parts.enter_context(closing(SmallDisk(folder)))
    except OSError:  # most people are not root
        return None


def _end(stack: Stack) -> None:
    stack.http.close()
    if stack.running:
        stack.stop()
