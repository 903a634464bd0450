from __future__ import annotations

import numpy as np

from nexus_jobs.adapters.engines.beginnings import CHUNK, Beginnings
from nexus_jobs.adapters.engines.sampling import Ints


def prompt(*chunks: int) -> Ints:
    """A prompt of whole chunks, each told by a number, and a few tokens more."""
    return np.concatenate([*(np.full(CHUNK, number) for number in chunks), np.arange(5)])


def test_a_beginning_is_kept_when_it_comes_again() -> None:
    beginnings = Beginnings([8])
    assert beginnings.keep(beginnings.note(prompt(1, 2)), CHUNK) is None
    marks = beginnings.note(prompt(1, 3))
    assert beginnings.keep(marks, CHUNK) == 8
    assert beginnings.kept(marks) == CHUNK
    assert beginnings.use(marks) == 8


def test_only_the_longest_beginning_that_came_again_is_kept() -> None:
    beginnings = Beginnings([8])
    beginnings.note(prompt(1, 2, 3))
    marks = beginnings.note(prompt(1, 2, 4))
    assert beginnings.keep(marks, CHUNK) is None
    assert beginnings.keep(marks, 2 * CHUNK) == 8
    assert beginnings.kept(beginnings.note(prompt(1, 9))) == CHUNK


def test_the_same_chunk_after_another_beginning_is_something_else() -> None:
    beginnings = Beginnings([8])
    beginnings.note(prompt(1, 2))
    assert beginnings.keep(beginnings.note(prompt(1, 2)), 2 * CHUNK) == 8
    assert beginnings.kept(beginnings.note(prompt(3, 2))) == 0


def test_the_beginning_that_was_used_longest_ago_makes_room() -> None:
    beginnings = Beginnings([8, 9])
    marks = {number: beginnings.note(prompt(number)) for number in (1, 2, 3, 1, 2, 3)}
    assert beginnings.keep(marks[1], CHUNK) == 8
    assert beginnings.keep(marks[2], CHUNK) == 9
    beginnings.use(marks[1])
    assert beginnings.keep(marks[3], CHUNK) == 9
    assert [beginnings.kept(marks[number]) for number in (1, 2, 3)] == [CHUNK, 0, CHUNK]


def test_without_slots_nothing_is_noted() -> None:
    beginnings = Beginnings([])
    assert not beginnings.note(prompt(1, 2))
    assert beginnings.kept(()) == 0
