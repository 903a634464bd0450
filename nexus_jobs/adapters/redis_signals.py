"""Hints between processes over Redis pub/sub."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import orjson
import redis
import structlog
from pydantic import TypeAdapter, ValidationError

from nexus_jobs.adapters.redis_link import RedisLink
from nexus_jobs.errors import QueueUnavailable
from nexus_jobs.ports import Channel, Ending, Hints

log = structlog.get_logger(__name__)

_PREFIX = "nexus:signal:"
_HINTS: TypeAdapter[Hints] = TypeAdapter(dict[str, Ending | None])
RECONNECT_SECONDS = 1.0
ASK_SECONDS = 1.0
"""A listener that has heard nothing for so long asks Redis whether it is still there."""
DEAF_SECONDS = 5.0
"""A listener that has not even heard an answer to that for so long connects anew. Somewhere on the
way its connection was forgotten, and nobody will ever say so. A Redis that is only busy answers
sooner: a request on any other connection gives up after a second.
"""
MESSAGE_JOBS = 250
"""Jobs in one message; Redis drops listeners that have too many bytes outstanding."""
LONGEST_TEXT = 16_384
"""Characters of an answer that a message carries; a longer one is read from its row."""


class RedisSignals:
    """One connection sends; one thread listens to all channels that anybody asked for."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._heard: dict[bytes, list[Callable[[Hints], None]]] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)

    def send(self, channel: Channel, hints: Hints) -> None:
        light = ((job_id, _light(ending)) for job_id, ending in hints.items())
        try:
            while message := dict(islice(light, MESSAGE_JOBS)):
                self._link.call("PUBLISH", _PREFIX + channel, orjson.dumps(message))
        except QueueUnavailable as error:
            log.warning("signal.unsent", channel=channel, reason=str(error))

    def listen(self, channel: Channel, heard: Callable[[Hints], None]) -> None:
        """Call before the first signal matters: it takes up to a second to take effect."""
        self._heard.setdefault(f"{_PREFIX}{channel}".encode(), []).append(heard)
        if not self._thread.is_alive():
            self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                self._follow()
            except redis.RedisError as error:
                log.warning("signals.interrupted", reason=str(error))
                self._closed.wait(RECONNECT_SECONDS)

    def _follow(self) -> None:
        pubsub: Any = self._link.client.pubsub  # the client's own types leave it out
        with pubsub(ignore_subscribe_messages=True) as subscription:
            subscribed: set[bytes] = set()
            heard_at = time.monotonic()
            while not self._closed.is_set():
                if new := self._heard.keys() - subscribed:
                    subscription.subscribe(*new)
                    subscribed |= new
                message = subscription.get_message(timeout=ASK_SECONDS)
                if message is None:
                    if time.monotonic() - heard_at > DEAF_SECONDS:
                        raise redis.TimeoutError("Redis answers no ping")
                    subscription.ping()
                    continue
                if message["type"] == "message":
                    self._pass_on(message)
                heard_at = time.monotonic()

    def _pass_on(self, message: Mapping[str, bytes]) -> None:
        try:
            hints = _HINTS.validate_json(message["data"])
        except ValidationError:
            log.warning("signal.garbled", channel=str(message["channel"]))
            return
        for heard in self._heard.get(message["channel"], ()):
            heard(hints)


def _light(ending: Ending | None) -> Ending | None:
    if ending is None or ending.result is None or len(ending.result.text) <= LONGEST_TEXT:
        return ending
    return replace(ending, result=None)
