"""Varied prompts for load tests: every subject with every task."""

from __future__ import annotations

from itertools import cycle, islice

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
