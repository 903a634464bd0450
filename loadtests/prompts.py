"""Varied work for load tests: prompts, the lengths of their answers, and when they arrive."""

from __future__ import annotations

from itertools import accumulate, cycle, islice
from random import Random
from typing import NamedTuple

SUBJECTS = (
    "the tides", "an old bicycle", "how bread rises", "a quiet library", "volcanoes",
    "the first day at a new school", "why leaves change colour", "a lighthouse keeper",
    "the water cycle", "a lost umbrella", "how a piano works", "mountain railways",
    "the invention of paper", "honey bees", "a night market", "why ice floats",
    "the oldest tree in the park", "learning to swim", "how maps are made", "thunder",
    "a broken clock", "the colour blue", "why cats purr", "a long train journey",
    "how vaccines work",
)  # fmt: skip
TASKS = (
    "Write one sentence about {}.",
    "What would you tell a child of six about {}? Use plain words and one example.",
    "List three facts about {}. Keep each of them under twenty words.",
    "Write the first line of a story about {}.",
    "Explain {} to somebody who has never heard of it. Then say which part surprises people most, "
    "and why, as if you were talking to a friend over dinner.",
    "Give a short title for an essay about {}.",
    "What question would you ask an expert about {}?",
    "Write two rhyming lines about {}.",
)


def varied_prompts(count: int) -> list[tuple[str, int]]:
    """Up to 200 different prompts, each with a `max_tokens` between 8 and 128."""
    texts = (task.format(subject) for task in TASKS for subject in SUBJECTS)
    lengths = (8 + (37 * index) % 121 for index in range(count))
    return list(zip(islice(cycle(texts), count), lengths, strict=True))


class Work(NamedTuple):
    """A prompt, and just how many tokens its answer shall have."""

    prompt: str
    tokens: int


def mixed_work(count: int, take: int = 0) -> list[Work]:
    """Work of 8 to 128 tokens; no prompt begins like another, of whatever take.

    So an engine that keeps the beginnings of prompts finds none from an earlier take.
    """
    return [
        Work(f"{take:02}-{index:03}: {text}", tokens)
        for index, (text, tokens) in enumerate(varied_prompts(count))
    ]


def poisson(rate: float, count: int, seed: int = 0) -> list[float]:
    """When requests come that know nothing of each other, `rate` a second; from 0, in seconds."""
    chance = Random(seed)
    return list(accumulate(chance.expovariate(rate) for _ in range(count)))
