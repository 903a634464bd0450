"""Compares what clients were told with what the database holds: lost, duplicated, contradictory."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from nexus_jobs.chaos.history import History, Reply, Told, Try, number_of
from nexus_jobs.job import TERMINAL, State


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
    """One broken promise; `job` is a job's id, or the number of a prompt whose job has none."""

    kind: Kind
    job: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the comparison showed.

    `unasked` counts rows that no client knows of: of tries that were answered 503, or whose
    connection broke, after the row had been committed. They break no promise.
    """

    breaches: Sequence[Breach]
    states: Mapping[State, int]
    unasked: int

    def count(self, kind: Kind) -> int:
        """How many jobs are affected, each counted once."""
        return len({breach.job for breach in self.breaches if breach.kind is kind})


def check(history: History, rows: Iterable[Row]) -> Verdict:
    """Look for every way in which the rows do not fit to what clients were told."""
    held = {row.id: row for row in rows}
    by_number: dict[int, list[Row]] = defaultdict(list)
    for row in held.values():
        by_number[number_of(row.prompt)].append(row)
    tries: dict[int, list[Try]] = defaultdict(list)
    for one in history.tries:
        tries[one.number].append(one)
    breaches = [
        *(breach for row in held.values() for breach in _row(row)),
        *(
            breach
            for number in tries.keys() | by_number.keys()
            for breach in _number(history, number, tries[number], by_number[number])
        ),
        *_told(history.told, held),
    ]
    accepted = sum(one.reply is Reply.ACCEPTED for one in history.tries)
    return Verdict(
        breaches=sorted(set(breaches), key=lambda breach: (breach.kind, breach.job)),
        states=Counter(row.state for row in held.values()),
        unasked=max(0, len(held) - accepted),
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


def _number(
    history: History, number: int, tries: Sequence[Try], rows: Sequence[Row]
) -> Iterator[Breach]:
    """What the rows of one prompt show beside the tries to submit it."""
    ids = {row.id for row in rows}
    accepted = [one for one in tries if one.reply is Reply.ACCEPTED]
    unsure = len(tries) - len(accepted)
    missing = [one.job_id for one in accepted if one.job_id and one.job_id not in ids]
    for job_id in missing:
        yield Breach(Kind.LOST, job_id, "accepted, but there is no such row")
    if not missing and len(rows) < len(accepted):
        yield Breach(Kind.LOST, f"#{number}", f"accepted {len(accepted)} times, {len(rows)} rows")
    if len(rows) > len(tries):
        yield Breach(Kind.DUPLICATED, f"#{number}", f"tried {len(tries)} times, {len(rows)} rows")
    known = {one.job_id for one in accepted}
    unasked = [
        row for row in rows if row.state is State.CANCELLED and row.id not in history.cancelled
    ]
    for row in unasked:
        # an upload that broke off cancels its rows, and those are not known to anybody
        if row.id in known or len(unasked) > unsure:
            yield Breach(Kind.CONTRADICTORY, row.id, "cancelled, though nobody asked for it")
    for row in rows:
        if row.state is State.EXPIRED and number not in history.may_expire:
            yield Breach(Kind.CONTRADICTORY, row.id, "expired, though it had no time limit")


def _told(told: Iterable[Told], held: Mapping[str, Row]) -> Iterator[Breach]:
    """What was said of jobs beside their rows, and beside what was said before."""
    by_job: dict[str, list[Told]] = defaultdict(list)
    for one in told:
        by_job[one.job_id].append(one)
    for job_id, said in by_job.items():
        row = held.get(job_id)
        if row is None:
            yield Breach(Kind.LOST, job_id, "clients were told of it, but there is no such row")
            continue
        for why in _against(row, said):
            yield Breach(Kind.CONTRADICTORY, job_id, why)


def _against(row: Row, said: Sequence[Told]) -> Iterator[str]:
    ended = [one for one in said if one.state in TERMINAL]
    known_since = min((one.at for one in ended), default=float("inf"))
    for one in said:
        if one.state is None:
            yield "a client was told that there is no such job"
        elif one.state not in TERMINAL:
            if one.asked > known_since:
                yield f"told {one.state} after it had been told that it ended"
        elif one.state is not row.state:
            yield f"told {one.state}, but it is {row.state}"
        elif one.attempt != row.attempt:
            yield f"told that attempt {one.attempt} ended it, but it was {row.attempt}"
        elif one.text != (row.texts[0] if row.texts else None):
            yield "the answer that was told is not the one that is recorded"
