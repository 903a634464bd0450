"""Faults of the platform's own processes."""

from __future__ import annotations

import random
import signal

import psutil

from nexus_jobs.chaos.fault import NothingToBreak
from nexus_jobs.chaos.ground import LEASE_SECONDS
from nexus_jobs.chaos.servers import Redis
from nexus_jobs.chaos.stack import Stack

ROLES = ("api", "worker", "scheduler")


class Killed:
    """SIGKILL to a process of a role; the supervisor starts it again."""

    seconds = (0.0, 1.0)

    def __init__(self, stack: Stack, role: str) -> None:
        self.name = f"{role} killed"
        self._stack = stack
        self._role = role

    def inject(self, chance: random.Random) -> None:
        _one_of(self._stack, self._role, chance).kill()

    def heal(self) -> None:
        """The supervisor does."""


class Frozen:
    """SIGSTOP to a process of a role until its leases have lapsed, then SIGCONT."""

    seconds = (LEASE_SECONDS + 1.0, LEASE_SECONDS + 4.0)

    def __init__(self, stack: Stack, role: str) -> None:
        self.name = f"{role} frozen"
        self._stack = stack
        self._role = role
        self._process: psutil.Process | None = None

    def inject(self, chance: random.Random) -> None:
        self._process = _one_of(self._stack, self._role, chance)
        self._process.send_signal(signal.SIGSTOP)

    def heal(self) -> None:
        if self._process is not None and self._process.is_running():
            self._process.resume()
        self._process = None


class PowerCut:
    """SIGKILL to everything at once, and a new start."""

    name = "all killed"
    seconds = (0.0, 1.0)

    def __init__(self, stack: Stack, redis: Redis, workers: int) -> None:
        self._stack = stack
        self._redis = redis
        self._workers = workers
        self._down = False

    def inject(self, chance: random.Random) -> None:  # noqa: ARG002
        self._down = True
        self._redis.kill()
        self._stack.kill()

    def heal(self) -> None:
        if self._down:
            self._redis.start()
            self._stack.start(workers=self._workers)
        self._down = False


def _one_of(stack: Stack, role: str, chance: random.Random) -> psutil.Process:
    there = stack.family(role)
    if not there:
        raise NothingToBreak(role)
    return chance.choice(there)
