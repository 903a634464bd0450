"""Runs sequences on an engine, alone or in company."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from nexus_jobs.engine import Engine, TokenSequence

Answers = dict[str, list[int]]


def alone(engine: Engine, sequences: Sequence[TokenSequence]) -> Answers:
    """The tokens of each sequence when nobody else is there."""
    answers: Answers = {}
    for sequence in sequences:
        answers |= in_company(engine, [sequence], joining=[1])
    return answers


def in_company(
    engine: Engine, sequences: Sequence[TokenSequence], joining: Sequence[int] = (3, 0, 1, 0, 2)
) -> Answers:
    """The tokens of each sequence in one running batch that up to `joining` of them join a step."""
    answers: Answers = {sequence.id: [] for sequence in sequences}
    waiting = list(sequences)
    running = 0
    turns = cycle(joining)
    while waiting or running:
        room = min(next(turns), engine.slots - running)
        joined, waiting = waiting[:room], waiting[room:]
        engine.admit(joined)
        running += len(joined)
        for progress in engine.step():
            answers[progress.sequence_id] += progress.token_ids
            running -= progress.finish_reason is not None
    return answers
