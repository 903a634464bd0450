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


class Sampler:
    """How one row chooses: its parameters, the tokens it has seen, its own random numbers."""

    def __init__(self, params: SamplingParams, prompt: Iterable[int], eos: Iterable[int]) -> None:
        self.params = params
        self.chosen = 0
        self._eos = np.fromiter(eos, np.int64)
        self._seen = set(prompt) if params.repetition_penalty != 1 else None
        # named, because a later numpy may have another default
        self._random = np.random.Generator(np.random.PCG64(params.seed))

    def constrain(self, logits: Floats) -> None:
        """Apply to `logits` [vocabulary], in place, what holds for greedy and sampled rows."""
        if self._seen is not None:
            seen = np.fromiter(self._seen, np.int64, len(self._seen))
            _penalise(logits, seen, self.params.repetition_penalty)
        if self.params.ignore_eos or self.chosen < self.params.min_tokens:
            logits[self._eos] = -np.inf

    def draw(self, logits: Floats) -> int:
        """A token at random, by the temperature and the filters; takes one random number."""
        with np.errstate(over="ignore"):  # a very low temperature: the others get weight 0
            weights = np.exp((logits - logits.max()) / np.float32(self.params.temperature))
        tokens = likeliest(weights, self.params.top_k, self.params.top_p)
        mass = np.cumsum(weights if tokens is None else weights[tokens], dtype=np.float64)
        # 1 - random() lies in (0, 1], so this finds no token of weight 0, and always one
        index = int(np.searchsorted(mass, (1 - self._random.random()) * mass[-1]))
        return index if tokens is None else int(tokens[index])

    def accept(self, token: int) -> None:
        """Remember a token that became part of the answer."""
        self.chosen += 1
        if self._seen is not None:
            self._seen.add(token)


def choose(logits: Floats, samplers: Sequence[Sampler]) -> list[int]:
    """The next token of each row. `logits` [rows, vocabulary] is overwritten."""
    for row, sampler in zip(logits, samplers, strict=True):
        sampler.constrain(row)
    tokens: list[int] = logits.argmax(axis=-1).tolist()
    for index, sampler in enumerate(samplers):
        if sampler.params.temperature > 0:
            tokens[index] = sampler.draw(logits[index])
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


def _penalise(logits: Floats, seen: Ints, penalty: float) -> None:
    """Make the `seen` tokens less likely (Keskar et al. 2019, CTRL, section 4.1)."""
    old = logits[seen]
    logits[seen] = np.where(old < 0, old * penalty, old / penalty)
