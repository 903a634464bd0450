"""URLs of the servers that the platform leans on: what they look like, and how they are shown."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qs, urlsplit

_LOGIN: Final = re.compile(r"([\w+]+://)\S*@|[^\s:/]+:(?!//)\S*@")
_SECRET: Final = re.compile(r"([?&]\w*(?:password|passwd|secret|token|key)=)[^&\s'\"]+")

_POSTGRESQL: Final = re.compile(
    r"postgres(ql)?(\+\w+)?://([^:/]*(:[^@]*)?@)?(\[[^/?]+\]|[^/:?@]+)?(:\d+)?(/[^?]*)?(\?.*)?"
)
_SQLITE: Final = re.compile(r"sqlite(\+\w+)?:///(?!:memory:)[^?]+(\?.*)?")


def without_passwords(text: str) -> str:
    """The text, with stars for the logins and passwords of the URLs in it."""
    return _SECRET.sub(r"\1***", _LOGIN.sub(lambda found: f"{found[1] or ''}***@", text))


def check_server(url: str) -> str:
    """The URL itself, if it can be that of a server that speaks HTTP.

    Raises:
        ValueError: it cannot; the message says what to write.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable:
        raise ValueError("no URL of a server; write it like http://127.0.0.1:8080")
    return url


def check_redis(url: str, schemes: Collection[str] = ("redis", "rediss")) -> str:
    """The URL itself, if it can be that of a Redis server.

    Raises:
        ValueError: it cannot; the message says what to write.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable or (parts.scheme != "unix" and not re.fullmatch(r"/?|/\d+", parts.path)):
        raise ValueError("no URL of a Redis server; write redis://:PASSWORD@HOST:6379/0")
    if parts.scheme != "unix" and {"username", "password"} & parse_qs(parts.query).keys():
        raise ValueError("the password stands before the host: redis://:PASSWORD@HOST:6379/0")
    return url


def check_database(url: str) -> str:
    """The URL itself, if it can be that of a SQLite file or of a PostgreSQL server.

    Raises:
        ValueError: it cannot; the message says what to write.
    """
    if not _POSTGRESQL.fullmatch(url) and not _SQLITE.fullmatch(url):
        raise ValueError(
            "no URL of a database; write postgresql://USER:PASSWORD@HOST/NAME or sqlite:///FILE"
        )
    return url
