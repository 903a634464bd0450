"""Processes beside those of the platform, which should do no harm."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import Final

from nexus_jobs.chaos.ground import LEASE_SECONDS
from nexus_jobs.chaos.stack import Stack

_HOUR: Final = 3600
_AN_HOUR_AHEAD: Final = f"""
import time
true_time, true_time_ns = time.time, time.time_ns
time.time = lambda: true_time() + {_HOUR}
time.time_ns = lambda: true_time_ns() + {_HOUR} * 10**9
"""


class Extra:
    """One more process of a role for a while; it is killed at the end, as if its host had died."""

    seconds = (LEASE_SECONDS, 3 * LEASE_SECONDS)

    def __init__(self, stack: Stack, name: str, *command: str, **env: str) -> None:
        self.name = name
        self._stack = stack
        self._command = command
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    def inject(self, chance: random.Random) -> None:  # noqa: ARG002
        self._process = self._stack.launch(*self._command, env=self._env)

    def heal(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None


def second_scheduler(stack: Stack) -> Extra:
    """Two who repair the same."""
    return Extra(stack, "second scheduler", "scheduler")


def worker_from_the_future(stack: Stack, folder: Path) -> Extra:
    """A worker whose own clock is an hour ahead.

    Only for a database on a server: an embedded one has its worker's clock.
    """
    shim = folder / "an_hour_ahead"
    shim.mkdir(exist_ok=True)
    (shim / "sitecustomize.py").write_text(_AN_HOUR_AHEAD)
    path = ":".join(filter(None, [str(shim), stack.env.get("PYTHONPATH", "")]))
    command = ("worker", "--name", "future")
    return Extra(stack, "worker an hour ahead", *command, PYTHONPATH=path)
