"""Remembers which prompts begin alike, and which of those beginnings lie in spare slots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import takewhile
from typing import Final

from cachetools import LRUCache

from nexus_jobs.adapters.engines.sampling import Ints

CHUNK: Final = 128
"""Prompts are cut, and so can be shared, at multiples of so many tokens."""
_REMEMBERED: Final = 4096
"""How many beginnings are known by their digest, to see that one comes again."""

Marks = Sequence[bytes]
"""A digest of each beginning of a prompt that ends at a multiple of CHUNK, shortest first."""


class Beginnings:
    """Beginnings that at least two prompts had, the last used ones in `slots`."""

    def __init__(self, slots: Iterable[int]) -> None:
        self._kept: dict[int, Marks] = dict.fromkeys(slots, ())  # least recently used first
        self._seen: LRUCache[bytes, int] = LRUCache(_REMEMBERED)

    def note(self, tokens: Ints) -> Marks:
        """Count the beginnings of a new prompt; without slots there is nothing to count for."""
        if not self._kept:
            return ()
        marks = _marks(tokens)
        for mark in marks:
            self._seen[mark] = self._seen.get(mark, 0) + 1
        return marks

    def kept(self, marks: Marks) -> int:
        """How many of the prompt's first tokens lie in a spare slot."""
        return max((_common(kept, marks) for kept in self._kept.values()), default=0)

    def use(self, marks: Marks) -> int:
        """The slot that holds the longest beginning of the prompt."""
        slot = max(self._kept, key=lambda slot: _common(self._kept[slot], marks))
        self._kept[slot] = self._kept.pop(slot)
        return slot

    def keep(self, marks: Marks, cached: int) -> int | None:
        """The slot into which to copy the first `cached` tokens of the prompt, if that is useful.

        It is if no longer beginning of this prompt is shared; so each is copied once, whole.
        """
        shared = sum(1 for _ in takewhile(lambda mark: self._seen.get(mark, 0) > 1, marks))
        if not shared or shared * CHUNK != cached or self.kept(marks) >= cached:
            return None
        slot = next(iter(self._kept))
        del self._kept[slot]
        self._kept[slot] = marks[:shared]
        return slot

    def forget(self) -> None:
        """The slots may hold anything now."""
        self._kept = dict.fromkeys(self._kept, ())


def _marks(tokens: Ints) -> Marks:
    digest = sha256()
    marks = []
    for end in range(CHUNK, len(tokens) + 1, CHUNK):
        digest.update(tokens[end - CHUNK : end].tobytes())
        marks.append(digest.digest())
    return marks


def _common(one: Marks, other: Marks) -> int:
    """How many tokens two prompts have in common at their beginnings, in whole chunks."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return CHUNK * sum(1 for _ in alike)
