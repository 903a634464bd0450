"""Faults of the database itself."""

from __future__ import annotations

import random
import sqlite3
from contextlib import suppress
from pathlib import Path

import psutil

from nexus_jobs.chaos.disk import Disk
from nexus_jobs.chaos.ground import LEASE_SECONDS
from nexus_jobs.chaos.servers import Postgres


class Crashed:
    """PostgreSQL drops everything as in a crash, and starts again."""

    name = "postgresql restarted"
    seconds = (0.0, 0.0)

    def __init__(self, server: Postgres) -> None:
        self._server = server

    def inject(self, chance: random.Random) -> None:  # noqa: ARG002
        self._server.restart()

    def heal(self) -> None:
        """It recovers by itself."""


class Stalled:
    """PostgreSQL does nothing for longer than a lease, as on a disk that hangs, and then goes on.

    No call fails; all only come late.
    """

    name = "postgresql stalled"
    seconds = (LEASE_SECONDS + 1.0, LEASE_SECONDS + 4.0)

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._stopped: list[psutil.Process] = []

    def inject(self, chance: random.Random) -> None:  # noqa: ARG002
        self._stopped = self._server.processes()
        for process in self._stopped:
            process.suspend()

    def heal(self) -> None:
        for process in self._stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        self._stopped = []


class Locked:
    """A stranger's process holds the lock for writing, and may do so until others give up."""

    name = "sqlite locked"
    seconds = (2.0, 12.0)

    def __init__(self, file: Path) -> None:
        self._file = file
        self._connection: sqlite3.Connection | None = None

    def inject(self, chance: random.Random) -> None:  # noqa: ARG002
        self._connection = sqlite3.connect(self._file, timeout=30, isolation_level=None)
        self._connection.execute("BEGIN EXCLUSIVE")

    def heal(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class Full:
    """No byte more fits onto the disk of the data folder."""

    name = "disk full"
    seconds = (1.0, 5.0)

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def inject(self, chance: random.Random) -> None:  # noqa: ARG002
        self._disk.fill()

    def heal(self) -> None:
        self._disk.free()
