"""Faults of Redis, and strange things that lie in it."""

from __future__ import annotations

import base64
import json
import os
import pickle
import random
import uuid
from pathlib import Path
from typing import Any, Final

from nexus_jobs.adapters.ticket_message import message, queue_of, ticket
from nexus_jobs.chaos.servers import Redis

_AT_ONCE: Final = (0.0, 0.0)
_COPIES: Final = 20


class Emptied:
    """FLUSHALL."""

    name = "redis emptied"
    seconds = _AT_ONCE

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
    seconds = _AT_ONCE

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def inject(self, chance: random.Random) -> None:  # noqa: ARG002
        for kind in ("normal", "pubsub"):
            self._redis.client.client_kill_filter(_type=kind, skipme=True)

    def heal(self) -> None:
        """The platform has to."""


class StrangeTickets:
    """Tickets that nobody sent: doubles, nonsense, and pickles that write `opened` if opened."""

    name = "strange tickets"
    seconds = _AT_ONCE

    def __init__(self, redis: Redis, model: str, opened: Path) -> None:
        self._redis = redis
        self._model = model
        self._opened = opened

    def inject(self, chance: random.Random) -> None:
        tickets = [ticket(self._model, chance.randrange(1, 100))] * _COPIES
        tickets += [pickled_ticket(self._model, self._opened), *nonsense(self._model)]
        tickets.append(chance.choice([b"", b"{", b"3", b"[]", b"{}"]))
        chance.shuffle(tickets)
        self._redis.client.lpush(queue_of(self._model), *tickets)

    def heal(self) -> None:
        """Workers have to get rid of them."""


class StrangeSignals:
    """Messages on the channels of signals: nonsense, strangers, and false alarms."""

    name = "strange signals"
    seconds = _AT_ONCE

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def inject(self, chance: random.Random) -> None:
        stranger = str(uuid.UUID(int=chance.getrandbits(128)))
        messages = [
            b"",
            b"\x80\x04\x95",
            b"[" * 100_000,
            b'{"' + stranger.encode() + b'": {"state": "nowhere"}}',
            json.dumps({stranger: None}).encode(),
            json.dumps([stranger]).encode(),
        ]
        for channel in ("nexus:signal:ended", "nexus:signal:cancelled"):
            for one in messages:
                self._redis.client.publish(channel, one)

    def heal(self) -> None:
        """Nothing stays."""


def pickled_ticket(model: str, opened: Path) -> bytes:
    """A ticket whose body runs code in whoever opens it."""
    body = pickle.dumps(_Payload(opened))
    kind = "application/x-python-serialize"
    return message(queue_of(model), body, content_type=kind, encoding="binary")


def nonsense(model: str) -> list[bytes]:
    """Tickets that are wrong in one way each."""
    queue, body = queue_of(model), base64.b64encode(b"?").decode()
    return [
        ticket(model, "many"),
        ticket(model, -5),
        ticket("no-such-model", 3),
        message(queue, b"\x00\xff"),
        message(queue, b"{}", task="os.system"),
        json.dumps({"body": body, "headers": {}, "properties": {}}).encode(),
    ]


class _Payload:
    def __init__(self, opened: Path) -> None:
        self._opened = opened

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._opened),)
