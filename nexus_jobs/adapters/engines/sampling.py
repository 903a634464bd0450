"""Chooses the next token of every row of a batch; company never changes a row's choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nexus_jobs.job import SamplingParams

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Choices = tuple[Ints, Floats]
"""Tokens of each row and their weights, [rows, most]; a row that has fewer ends with weight 0."""

_HEAD: Final = 1e-5
"""Tokens this much less likely than the likeliest are sorted only if a filter needs them."""


class Sampler:
    """How one row chooses: its parameters, the tokens it has seen, its own random numbers."""

    def __init__(self, params: SamplingParams, prompt: Iterable[int], eos: Iterable[int]) -> None:
        self.params = params
        self.chosen = 0
        self.eos = list(eos)
        self.seen = np.array([*set(prompt)] if params.repetition_penalty != 1 else [], np.int64)
        # named, because a later numpy may have another default
        self._random = np.random.Generator(np.random.PCG64(params.seed))

    @property
    def may_end(self) -> bool:
        return not self.params.ignore_eos and self.chosen >= self.params.min_tokens

    def chance(self) -> float:
        """The row's next random number, in (0, 1]."""
        return 1 - self._random.random()

    def accept(self, token: int) -> None:
        """Remember a token that became part of the answer."""
        self.chosen += 1
        if self.params.repetition_penalty != 1 and token not in self.seen:
            self.seen = np.append(self.seen, token)


def choose(logits: Floats, samplers: Sequence[Sampler]) -> list[int]:
    """The next token of each row. `logits` [rows, vocabulary] is overwritten."""
    _penalise(logits, samplers)
    for row, sampler in enumerate(samplers):
        if not sampler.may_end:
            logits[row, sampler.eos] = -np.inf
    chosen = logits.argmax(axis=-1)
    sampled = [row for row, sampler in enumerate(samplers) if sampler.params.temperature > 0]
    if sampled:
        chosen[sampled] = draw(logits[sampled], [samplers[row] for row in sampled])
    tokens: list[int] = chosen.tolist()
    return tokens


def draw(logits: Floats, samplers: Sequence[Sampler]) -> Ints:
    """Tokens at random, by each row's temperature and filters; takes a random number a row."""
    params = [sampler.params for sampler in samplers]
    weights = _weights(logits, np.array([p.temperature for p in params], np.float32))
    top_k = np.array([p.top_k if p.top_k < logits.shape[1] else 0 for p in params])
    top_p = np.array([p.top_p for p in params])
    chance = np.array([sampler.chance() for sampler in samplers])
    plain = (top_k == 0) & (top_p >= 1)
    short = ~plain & _head_suffices(weights, top_k, top_p)
    tokens = np.empty(len(samplers), np.int64)
    tokens[plain] = _pick(weights[plain], chance[plain])
    for rows, bar in ((short, _HEAD), (~plain & ~short, -1.0)):
        if rows.any():
            choices, kept = likeliest(weights[rows], top_k[rows], top_p[rows], bar)
            tokens[rows] = np.take_along_axis(choices, _pick(kept, chance[rows])[:, None], 1)[:, 0]
    return tokens


def likeliest(weights: Floats, top_k: Ints, top_p: Floats, bar: float = -1.0) -> Choices:
    """What top-k and then top-p leave of each row's tokens above `bar`, likeliest first.

    `weights` [rows, vocabulary] are probabilities up to a factor, the greatest of a row is 1. A
    top-k of 0 is off. Equals in weight to the k-th token stay too, and at least one token always
    stays, as in Hugging Face.
    """
    tokens, kept = _sorted_above(weights, bar)
    kth = np.take_along_axis(kept, (top_k - 1).clip(0)[:, None], axis=1)
    kept = np.where((top_k[:, None] == 0) | (kept >= kth), kept, 0)
    mass = np.cumsum(kept, axis=1, dtype=np.float64)
    before = np.zeros_like(mass)
    before[:, 1:] = mass[:, :-1]
    goal = top_p * np.where(top_k == 0, weights.sum(axis=1), mass[:, -1])
    left = (before < goal[:, None]) | (top_p[:, None] >= 1)
    left[:, 0] = True
    return tokens, np.where(left, kept, 0)


def _sorted_above(weights: Floats, bar: float) -> Choices:
    rows, tokens = np.nonzero(weights > bar)
    counts = np.bincount(rows, minlength=len(weights))
    at = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    choices = np.zeros((len(weights), counts.max()), np.int64)
    kept = np.zeros(choices.shape, weights.dtype)
    choices[rows, at] = tokens
    kept[rows, at] = weights[rows, tokens]
    order = np.argsort(-kept, axis=1, kind="stable")
    return np.take_along_axis(choices, order, axis=1), np.take_along_axis(kept, order, axis=1)


def _head_suffices(weights: Floats, top_k: Ints, top_p: Floats) -> NDArray[np.bool_]:
    """For which rows the filters leave nothing but tokens above the bar of the head."""
    head = weights > _HEAD
    mass = np.where(head, weights, 0).sum(axis=1)
    likely: NDArray[np.bool_] = mass >= top_p * weights.sum(axis=1)
    return np.where(top_k > 0, head.sum(axis=1) >= top_k, likely)


def _pick(weights: Floats, chance: Floats) -> Ints:
    """An index in each row, as likely as its weight says; never one of weight 0."""
    mass = np.cumsum(weights, axis=1, dtype=np.float64)
    index: Ints = (mass < chance[:, None] * mass[:, -1:]).sum(axis=1)
    return index


def _weights(logits: Floats, temperature: Floats) -> Floats:
    """Probabilities up to a factor: the likeliest token of each row has weight 1."""
    with np.errstate(over="ignore"):  # a very low temperature: the others get weight 0
        weights: Floats = (logits - logits.max(axis=1, keepdims=True)) / temperature[:, None]
        return np.exp(weights, out=weights)


def _penalise(logits: Floats, samplers: Sequence[Sampler]) -> None:
    """Make the tokens a row has seen less likely (Keskar et al. 2019, CTRL, section 4.1)."""
    counts = [len(sampler.seen) for sampler in samplers]
    rows = np.repeat(np.arange(len(samplers)), counts)
    tokens = np.concatenate([sampler.seen for sampler in samplers])
    penalty = np.array([s.params.repetition_penalty for s in samplers], logits.dtype)[rows]
    old = logits[rows, tokens]
    logits[rows, tokens] = np.where(old < 0, old * penalty, old / penalty)
