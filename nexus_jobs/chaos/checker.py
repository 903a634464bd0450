"""Compares what clients were told with what the database holds: lost, duplicated, contradictory."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from nexus_jobs.chaos.history import History, Reply, Told, Try, number_of
from nexus_jobs.states import TERMINAL, State

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A job as the database holds it; `texts` are all results recorded for it."""

    id: str
    prompt: str
    state: State
    attempt: int
    texts: Sequence[str]


class Kind(StrEnum):
    """The ways in which the promise can be broken."""

    LOST = "lost"  # accepted, but not there or never ended
    DUPLICATED = "duplicated"  # more results or rows than were asked for
    CONTRADICTORY = "contradictory"  # told one thing, held another


@dataclass(frozen=True, slots=True)
class Breach:
    """One broken promise; `job` is a job's id, or #number of a prompt whose job has none."""

    kind: Kind
    job: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the comparison showed.

    `unasked` counts the rows that were committed although their client got no word of it: by
    the worst that it was told, a 503 or a connection that broke. They break no promise, since
    whoever sees either cannot know.
    """

    breaches: Sequence[Breach]
    states: Mapping[State, int]
    unasked: Mapping[Reply, int]

    def count(self, kind: Kind) -> int:
        """How many jobs are affected, each counted once."""
        return len({breach.job for breach in self.breaches if breach.kind is kind})


def check(history: History, rows: Iterable[Row]) -> Verdict:
    """Look for every way in which the rows do not fit to what clients were told."""
    held = {row.id: row for row in rows}
    tries = _grouped(history.tries, lambda one: one.number)
    copies = _grouped(held.values(), lambda row: number_of(row.prompt))
    prompts = [
        _Prompt(number, tries.get(number, []), copies.get(number, []))
        for number in tries.keys() | copies.keys()
    ]
    breaches = [
        *(breach for row in held.values() for breach in _row(row)),
        *(breach for prompt in prompts for breach in _prompt(prompt, history)),
        *_told(history.told, held),
    ]
    unasked: Counter[Reply] = Counter()
    for prompt in prompts:
        unasked[prompt.worst] += max(0, len(prompt.rows) - len(prompt.accepted))
    return Verdict(
        breaches=sorted(set(breaches), key=lambda breach: (breach.kind, breach.job, breach.why)),
        states=Counter(row.state for row in held.values()),
        unasked=+unasked,
    )


def _row(row: Row) -> Iterator[Breach]:
    """What a row shows by itself."""
    if row.state not in TERMINAL:
        yield Breach(Kind.LOST, row.id, f"never ended: it is {row.state}")
    if len(row.texts) > 1:
        yield Breach(Kind.DUPLICATED, row.id, f"{len(row.texts)} results")
    if bool(row.texts) != (row.state is State.SUCCEEDED):
        yield Breach(Kind.CONTRADICTORY, row.id, f"{row.state} with {len(row.texts)} results")
    if any(text != row.prompt for text in row.texts):
        yield Breach(Kind.CONTRADICTORY, row.id, "its result is not the answer to its prompt")
    if row.state is State.FAILED:
        yield Breach(Kind.CONTRADICTORY, row.id, "failed, though nothing is wrong with it")


@dataclass(frozen=True, slots=True)
class _Prompt:
    """One prompt: the tries to submit it, and the rows that came of them."""

    number: int
    tries: Sequence[Try]
    rows: Sequence[Row]

    @property
    def accepted(self) -> list[Try]:
        return [one for one in self.tries if one.reply is Reply.ACCEPTED]

    @property
    def worst(self) -> Reply:
        """What leaves the client with the least knowledge."""
        replies = {one.reply for one in self.tries}
        return Reply.UNKNOWN if Reply.UNKNOWN in replies else Reply.REFUSED


def _prompt(prompt: _Prompt, history: History) -> Iterator[Breach]:
    tries, rows, accepted = len(prompt.tries), len(prompt.rows), prompt.accepted
    name, ids = f"#{prompt.number}", {row.id for row in prompt.rows}
    once = prompt.number in history.once
    missing = [one.job_id for one in accepted if one.job_id and one.job_id not in ids]
    for job_id in missing:
        yield Breach(Kind.LOST, job_id, "accepted, but there is no such row")
    if not missing and rows < (min(1, len(accepted)) if once else len(accepted)):
        yield Breach(Kind.LOST, name, f"accepted {len(accepted)} times, but has {rows} rows")
    if rows > (1 if once else tries):
        key = " under one key" if once else ""
        yield Breach(Kind.DUPLICATED, name, f"tried {tries} times{key}, but has {rows} rows")
    yield from _uncalled_for(prompt, history)


def _uncalled_for(prompt: _Prompt, history: History) -> Iterator[Breach]:
    """Rows that ended in a way that nobody asked for."""
    known = {one.job_id for one in prompt.accepted}
    broken_off = len(prompt.tries) - len(prompt.accepted)
    cancelled = [
        row
        for row in prompt.rows
        if row.state is State.CANCELLED and row.id not in history.cancelled
    ]
    for row in cancelled:
        # an upload that broke off cancels its rows, and no client knows their ids
        if row.id in known or len(cancelled) > broken_off:
            yield Breach(Kind.CONTRADICTORY, row.id, "cancelled, though nobody asked for it")
    for row in prompt.rows:
        if row.state is State.EXPIRED and prompt.number not in history.may_expire:
            yield Breach(Kind.CONTRADICTORY, row.id, "expired, though it had no time limit")


def _told(told: Iterable[Told], held: Mapping[str, Row]) -> Iterator[Breach]:
    """What was said of jobs beside their rows, and beside what was said before."""
    for job_id, said in _grouped(told, lambda one: one.job_id).items():
        row = held.get(job_id)
        if row is None:
            yield Breach(Kind.LOST, job_id, "clients were told of it, but there is no such row")
            continue
        first_end = min((one.at for one in said if one.state in TERMINAL), default=float("inf"))
        for one in said:
            why = _against(row, one, first_end)
            if why:
                yield Breach(Kind.CONTRADICTORY, job_id, why)


def _against(row: Row, one: Told, first_end: float) -> str | None:
    """How what was told contradicts the row, or an end that was told before it was asked."""
    if one.state is None:
        return "a client was told that there is no such job"
    if one.state not in TERMINAL:
        return f"told {one.state} after its end had been told" if one.asked > first_end else None
    if one.state is not row.state:
        return f"told {one.state}, but it is {row.state}"
    if one.attempt != row.attempt:
        return f"told that attempt {one.attempt} ended it, but it was {row.attempt}"
    if one.text != (row.texts[0] if row.texts else None):
        return "the answer that was told is not the one that is recorded"
    return None


def _grouped(things: Iterable[T], key: Callable[[T], K]) -> Mapping[K, list[T]]:
    groups: dict[K, list[T]] = defaultdict(list)
    for thing in things:
        groups[key(thing)].append(thing)
    return groups
