"""A transformers cache in which every row has its own length: one slot a row, written in place."""

from __future__ import annotations

from typing import Any, Final

import torch
from transformers import Cache

_FIRST_CAPACITY: Final = 256
"""Tokens a slot has room for at first; doubled whenever a row outgrows it."""
STRIDE: Final = 64
"""Attention looks at a multiple of this many keys, so that the neighbours' lengths do not change
how the sum over a row's own keys is split.
"""


class SlotCache(Cache):
    """Keys and values of each layer, [slots, heads, capacity, head size], padded on the right.

    Before each forward pass, say what it will bring: `expect_prompts` or `expect_tokens`.
    """

    def __init__(self, slots: int, longest: int) -> None:
        super().__init__(layers=[])
        self._slots = slots
        self._longest = _rounded(longest, STRIDE)
        self.capacity = min(_FIRST_CAPACITY, self._longest)
        """Tokens a slot has room for now; when it changes, the buffers are others."""
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._first = self._start = self._span = 0
        self._at: tuple[torch.Tensor, torch.Tensor] | None = None

    def reserve(self, length: int) -> None:
        """Give every slot room for `length` tokens."""
        if length <= self.capacity:
            return
        self.capacity = min(_rounded(max(length, 2 * self.capacity), STRIDE), self._longest)
        for layer, (keys, values) in enumerate(self._buffers):
            self._buffers[layer] = self._lengthened(keys), self._lengthened(values)

    def span(self, length: int, stride: int) -> int:
        """How many keys to look at to see `length`: a multiple of `stride`, if there is room."""
        return min(_rounded(length, stride), self.capacity)

    def expect_prompts(self, first: int, start: int, end: int) -> None:
        """The next pass brings tokens at the positions `start` to `end`, for slots from `first`."""
        self._first, self._start, self._at, self._span = first, start, None, end

    def expect_tokens(self, slots: torch.Tensor, at: torch.Tensor, span: int) -> None:
        """The next pass brings one token a row, to `slots` [rows] at the positions `at` [rows].

        Row i looks at the first `span` keys of slot i. Rows that are padding go to other slots.
        """
        self._first, self._at, self._span = 0, (slots, at), span

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store what a layer computed, [rows, heads, tokens, head size]; returns what to look at.

        A prompt looks at itself and at what its slot holds before it.
        """
        if layer_idx == len(self._buffers):
            self._buffers.append((self._empty(key_states), self._empty(value_states)))
        keys, values = self._store(layer_idx, key_states, value_states)
        rows = slice(self._first, self._first + len(key_states))
        return keys[rows, :, : self._span], values[rows, :, : self._span]

    def move(self, source: int, target: int, length: int) -> None:
        for pair in self._buffers:
            for buffer in pair:
                buffer[target, :, :length] = buffer[source, :, :length]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """How much of a row is cached before this pass."""
        return self._start if self._at is None else self._span - 1

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Number and offset of the keys; decoding brings its own mask and does not ask."""
        return self.get_seq_length(layer_idx) + query_length, 0

    def _store(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        for buffer, states in zip(self._buffers[layer], (keys, values), strict=True):
            if self._at is None:
                rows = slice(self._first, self._first + len(states))
                buffer[rows, :, self._start : self._span] = states
            else:
                slots, at = self._at
                buffer[slots, :, at] = states[:, :, 0]
        return self._buffers[layer]

    def _empty(self, states: torch.Tensor) -> torch.Tensor:
        """Zeros, because a masked key still counts with its value times 0, and 0 * NaN is NaN."""
        _, heads, _, size = states.shape
        return states.new_zeros((self._slots, heads, self.capacity, size))

    def _lengthened(self, buffer: torch.Tensor) -> torch.Tensor:
        longer = self._empty(buffer)
        longer[:, :, : buffer.shape[2]] = buffer
        return longer


def _rounded(length: int, stride: int) -> int:
    return -(-length // stride) * stride
