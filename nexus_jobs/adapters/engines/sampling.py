"""Chooses the next token of every row of a batch; company never changes a row's choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nexus_jobs.job import SamplingParams

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

_HEAD: Final = 1e-5
"""Tokens this much less likely than the likeliest are sorted only if a filter needs them."""
_BLOCK: Final = 256
"""A running sum goes over blocks of so many tokens; over all of them it would cost the most."""


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

    def draw(self, logits: Floats) -> int:
        """A token at random, by the temperature and the filters; takes one random number.

        One row at a time, because a row fits the processor's cache and a batch of them does not.
        """
        weights = logits - logits.max()
        with np.errstate(over="ignore"):  # a very low temperature: the others get weight 0
            weights /= np.float32(self.params.temperature)
        np.exp(weights, out=weights)
        tokens = likeliest(weights, self.params.top_k, self.params.top_p)
        # 1 - random() lies in (0, 1]
        index = pick(weights if tokens is None else weights[tokens], 1 - self._random.random())
        return index if tokens is None else int(tokens[index])

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
    tokens: list[int] = logits.argmax(axis=-1).tolist()
    for row, sampler in enumerate(samplers):
        if sampler.params.temperature > 0:
            tokens[row] = sampler.draw(logits[row])
    return tokens


def likeliest(weights: Floats, top_k: int, top_p: float) -> Ints | None:
    """The tokens that top-k and then top-p leave, likeliest first; None if both are off.

    `weights` [vocabulary] are probabilities up to a factor, the greatest is 1. Equals in weight
    to the k-th token stay too, and at least one token always stays, as in Hugging Face.
    """
    if top_k >= len(weights):
        top_k = 0
    if not top_k and top_p >= 1:
        return None
    total = weights.sum(dtype=np.float64)
    tokens = np.flatnonzero(weights > _HEAD)
    if len(tokens) < top_k or (not top_k and weights[tokens].sum(dtype=np.float64) < top_p * total):
        tokens = np.arange(len(weights))
    tokens = tokens[np.argsort(-weights[tokens], kind="stable")]
    if top_k:
        tokens = tokens[weights[tokens] >= weights[tokens[top_k - 1]]]
    if top_p < 1:
        mass = np.cumsum(weights[tokens], dtype=np.float64)
        reached = np.searchsorted(mass, top_p * (mass[-1] if top_k else total))
        tokens = tokens[: reached + 1]
    return tokens


def pick(weights: Floats, chance: float) -> int:
    """An index, as likely as its weight says; `chance` in (0, 1] never picks a weight of 0."""
    blocks = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK)).cumsum(dtype=np.float64)
    goal = chance * blocks[-1]
    block = int(np.searchsorted(blocks, goal))
    within = weights[block * _BLOCK : (block + 1) * _BLOCK].cumsum(dtype=np.float64)
    rest = goal - (blocks[block - 1] if block else 0)
    # the two sums over a block may differ in rounding
    return block * _BLOCK + int(np.searchsorted(within, min(rest, within[-1])))


def _penalise(logits: Floats, samplers: Sequence[Sampler]) -> None:
    """Make the tokens a row has seen less likely (Keskar et al. 2019, CTRL, section 4.1)."""
    counts = [len(sampler.seen) for sampler in samplers]
    rows = np.repeat(np.arange(len(samplers)), counts)
    tokens = np.concatenate([sampler.seen for sampler in samplers])
    penalty = np.array([s.params.repetition_penalty for s in samplers], logits.dtype)[rows]
    old = logits[rows, tokens]
    logits[rows, tokens] = np.where(old < 0, old * penalty, old / penalty)
