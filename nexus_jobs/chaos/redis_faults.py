"""Faults of Redis, and of what lies in it."""

from __future__ import annotations

import random

from nexus_jobs.chaos.servers import Redis


class Emptied:
    """FLUSHALL."""

    name = "redis emptied"
    seconds = (0.0, 0.0)

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def inject(self, chance: random.Random) -> None:  # noqa: ARG002
        self._redis.client.flushall()

    def heal(self) -> None:
        """The platform has to."""


class Restarted:
    """SIGKILL, a while without it, and a new and empty one."""

    name = "redis killed"
    seconds = (0.0, 5.0)

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._down = False

    def inject(self, chance: random.Random) -> None:  # noqa: ARG002
        self._down = True
        self._redis.kill()

    def heal(self) -> None:
        if self._down:
            self._redis.start()
        self._down = False


class Disconnected:
    """CLIENT KILL for everybody, those who listen included."""

    name = "redis clients killed"
    seconds = (0.0, 0.0)

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def inject(self, chance: random.Random) -> None:  # noqa: ARG002
        for kind in ("normal", "pubsub"):
            self._redis.client.client_kill_filter(_type=kind, skipme=True)

    def heal(self) -> None:
        """The platform has to."""
