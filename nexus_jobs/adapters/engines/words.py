"""Words as tokens, for engines that run no weights here.

A token is a piece of text, and its id is the UTF-8 of that piece read as a number, so that ids
need no table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from nexus_jobs.job import Message

_WORD: Final = re.compile(r"\s*\S+|\s+")
_UTF8: Final = ("utf-8", "surrogatepass")


class WordTokenizer:
    """A word with the blanks before it is a token. Every text round-trips exactly."""

    def render(self, messages: Sequence[Message]) -> str | None:
        """The last turn alone."""
        return messages[-1].content

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:  # noqa: ARG002
        return [token_id(word) for word in _WORD.findall(text)]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(word, token_ids))


def token_id(text: str) -> int:
    """The byte 1 in front keeps zero bytes at the beginning of a text."""
    return int.from_bytes(b"\1" + text.encode(*_UTF8), "big")


def word(number: int) -> str:
    """The text that an id stands for."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")[1:].decode(*_UTF8)
