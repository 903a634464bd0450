"""Caches the prompts of new rows, a bounded number of tokens a step, so that no step takes long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from nexus_jobs.adapters.engines.beginnings import CHUNK, Beginnings, Marks
from nexus_jobs.adapters.engines.sampling import Ints

_BUCKET: Final = 16
"""A prompt's last piece is padded to a multiple of this; equal pieces share a forward pass."""


class Cache(Protocol):
    """What a prefill needs of a backend; see there."""

    def prefill(self, first: int, tokens: Ints, start: int) -> None: ...

    def move(self, source: int, target: int, length: int) -> None: ...


class Prompt:
    """What has to be cached of a row before it can be decoded; `cached` of its `tokens` are."""

    def __init__(self, id: str, tokens: Sequence[int]) -> None:
        self.id = id
        self.tokens = np.array(tokens, np.int64)
        self.cached = 0
        self.marks: Marks = ()

    @property
    def whole(self) -> bool:
        return self.cached == len(self.tokens)

    def mark(self, at: int) -> bytes | None:
        """Names all up to the end of the chunk that begins at `at`, if the prompt has all of it."""
        index = at // CHUNK
        return self.marks[index] if index < len(self.marks) else None


class Prefill:
    """The prompts that are not whole yet: one group is begun and has slots, the others wait.

    A prompt is cut at multiples of `CHUNK` tokens and nobody else's has a say in that, so its
    numbers are the same alone and in company. Prompts with equal pieces form a group.
    """

    def __init__(self, cache: Cache, beginnings: Beginnings, *, budget: int, longest: int) -> None:
        """`budget` is in tokens a step, `longest` the room of a slot."""
        self._cache = cache
        self._beginnings = beginnings
        self._budget = budget
        self._longest = longest
        self._waiting: list[Prompt] = []
        self._begun: list[Prompt] = []

    def add(self, prompts: Sequence[Prompt]) -> None:
        """Let prompts wait behind the earlier ones."""
        for prompt in prompts:
            prompt.marks = self._beginnings.note(prompt.tokens)
        self._waiting += sorted(prompts, key=lambda prompt: len(prompt.tokens))

    def advance(self, first: int) -> list[Prompt]:
        """Cache some more tokens, at least a piece of a group; returns what is whole now.

        Those prompts lie in the slots from `first` on, the group that is begun behind them.
        """
        whole: list[Prompt] = []
        left = self._budget
        while self._begun or self._waiting:
            if self._least() > left < self._budget:
                break
            self._begun = self._begun or self._begin(first, left)
            left -= self._least()
            self._pass(first)
            if self._begun[0].whole:
                whole += self._begun
                first += len(self._begun)
                self._begun = []
        return whole

    def shift(self, first: int) -> None:
        """Move the group that is begun from the slots from `first` on to those one before."""
        if self._begun:
            last = self._begun.pop()
            self._cache.move(first + len(self._begun), first - 1, last.cached)
            self._begun.insert(0, last)

    def drop(self, id: str, first: int) -> None:
        """Forget a prompt; the group that is begun lies in the slots from `first` on."""
        self._waiting = [prompt for prompt in self._waiting if prompt.id != id]
        for index, prompt in enumerate(self._begun):
            if prompt.id == id:
                last = self._begun.pop()
                if last is not prompt:
                    self._cache.move(first + len(self._begun), first + index, last.cached)
                    self._begun[index] = last
                return

    def clear(self) -> None:
        """Forget all prompts, and what the slots held, after a failure."""
        self._beginnings.forget()
        self._waiting.clear()
        self._begun.clear()

    def _least(self) -> int:
        """How many tokens the next pass caches, with padding, at least."""
        if self._begun:
            return len(self._begun) * self._piece(self._begun[0])
        head = self._waiting[0]
        head.cached = self._beginnings.kept(head.marks)
        return self._piece(head)

    def _begin(self, first: int, room: int) -> list[Prompt]:
        """Take a group out of those that wait: the first, and others with equal pieces.

        Of prompts that begin alike only one joins; the others copy that beginning later.
        """
        head, group = self._waiting[0], dict[bytes | str, Prompt]()
        most = room // max(1, self._piece(head))
        for prompt in self._waiting:
            prompt.cached = self._beginnings.kept(prompt.marks)
            if (prompt.cached, self._padded(prompt)) == (head.cached, self._padded(head)):
                group.setdefault(prompt.mark(head.cached) or prompt.id, prompt)
            if len(group) >= most:
                break
        begun = list(group.values())
        self._waiting = [prompt for prompt in self._waiting if prompt not in begun]
        for slot, prompt in enumerate(begun, first):
            if prompt.cached:
                self._cache.move(self._beginnings.use(prompt.marks), slot, prompt.cached)
        return begun

    def _pass(self, first: int) -> None:
        """Cache the next piece of each prompt of the group."""
        start = self._begun[0].cached
        tokens = np.zeros((len(self._begun), self._piece(self._begun[0])), np.int64)
        for row, prompt in zip(tokens, self._begun, strict=True):
            part = prompt.tokens[start : start + len(row)]
            row[: len(part)] = part
        if tokens.size:
            self._cache.prefill(first, tokens, start)
        for slot, prompt in enumerate(self._begun, first):
            prompt.cached = min(start + tokens.shape[1], len(prompt.tokens))
            spare = self._beginnings.keep(prompt.marks, prompt.cached)
            if spare is not None:
                self._cache.move(slot, spare, prompt.cached)

    def _piece(self, prompt: Prompt) -> int:
        """How many of its tokens the next pass caches, with padding."""
        return min(CHUNK, self._padded(prompt) - prompt.cached)

    def _padded(self, prompt: Prompt) -> int:
        return min(-(-len(prompt.tokens) // _BUCKET) * _BUCKET, self._longest)
