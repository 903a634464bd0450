"""Whatever is asked of them in whatever order, the store in memory and SQLite answer the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nexus_jobs.adapters import schema
from nexus_jobs.adapters.memory_store import MemoryStore
from nexus_jobs.adapters.sql_store import SqlStore
from nexus_jobs.errors import Conflict, InvalidRequest
from nexus_jobs.job import (
    Bulk,
    BulkState,
    Cached,
    Ended,
    FinishReason,
    Idempotency,
    Job,
    JobError,
    NewJob,
    Outcome,
    Request,
    Result,
)
from nexus_jobs.ports import JobFilter
from nexus_jobs.states import TERMINAL, TRANSITIONS, Event, State
from tests.contract.stores import Store, states_after

MODELS = ("a", "b")
RESULT = Result(text="x", finish_reason=FinishReason.LENGTH, prompt_tokens=1, completion_tokens=2)
ERROR = JobError("engine_error", "lost")
LEGAL = {(source, to) for sources, to in TRANSITIONS.values() for source in sources}

# so far apart that the small differences between the two stores' clocks decide nothing
SPANS = st.sampled_from([-1000.0, 1000.0])
NUMBERS = st.integers(0, 30)
BIRTHS = st.sampled_from([None, None, None, Ended(RESULT, Cached.REDIS), Ended(error=ERROR)])
KEYED = st.builds(
    Idempotency, key=st.sampled_from("kl"), digest=st.sampled_from("de"), seconds=SPANS
)


@st.composite
def drafts(draw: st.DrawFn) -> dict[str, Any]:
    """The fields of a new job, all but its id."""
    request = Request(
        model=draw(st.sampled_from(MODELS)),
        prompt="x",
        expires_in=draw(st.none() | SPANS),
    )
    return {
        "request": request,
        "slack": draw(st.sampled_from([0.0, 1000.0, 2000.0])),
        "max_attempts": draw(st.integers(1, 2)),
        "route": draw(st.sampled_from([None, "r"])),
        "ended": draw(BIRTHS),
        "idempotency": draw(st.none() | KEYED),
    }


def shown(answer: Any) -> Any:
    """An answer without what each store chooses by itself: times and lease tokens."""
    if isinstance(answer, Job):
        times = dict.fromkeys(
            ("expires_at", "run_after", "started_at", "finished_at", "lease_token")
        )
        given = {name for name in times if getattr(answer, name) is not None}
        return replace(answer, submitted_at=0.0, due_at=0.0, **times), given
    if isinstance(answer, Bulk):
        return replace(answer, submitted_at=0.0)
    if isinstance(answer, dict):
        return {key: shown(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [shown(each) for each in answer]
    return answer


class TwoStores(RuleBasedStateMachine):
    """Asks the same of both stores and compares all that they say."""

    def __init__(self, sqlite_file: Path) -> None:
        super().__init__()
        self.sqlite = SqlStore(f"sqlite:///{sqlite_file}", pool_size=1)
        self.memory = MemoryStore()
        self.numbers = count()
        self.ids: list[str] = []
        self.bulk_ids: list[str] = []
        self.claimed: list[tuple[Job, Job]] = []
        self.states: dict[str, State] = {}

    def teardown(self) -> None:
        self.sqlite.close()

    def new_id(self) -> str:
        return f"{next(self.numbers):08x}-0000-7000-8000-000000000000"

    def both(
        self, ask: Callable[..., Any], *, each: Callable[[Any], Any] = shown
    ) -> tuple[Any, Any]:
        """What the stores answer, which must be the same in the form that `each` gives it."""
        answers = self.answer(ask, self.memory, 0), self.answer(ask, self.sqlite, 1)
        assert each(answers[0]) == each(answers[1])
        return answers

    @staticmethod
    def answer(ask: Callable[..., Any], store: Any, which: int) -> Any:
        try:
            return ask(store, which)
        except (Conflict, InvalidRequest) as error:
            return error.code

    @rule(batch=st.lists(drafts(), min_size=1, max_size=4), again=st.booleans())
    def add(self, batch: list[dict[str, Any]], again: bool) -> None:
        jobs = [NewJob(id=self.new_id(), **fields) for fields in batch]
        if again and self.ids:
            jobs.append(replace(jobs[0], id=self.ids[0]))
        self.ids += [job.id for job in jobs]
        self.both(lambda store, _: store.add(jobs))

    @rule()
    def add_bulk(self) -> None:
        bulk_id = self.new_id()
        self.bulk_ids.append(bulk_id)
        bulk = Bulk(
            id=bulk_id,
            model="a",
            filename="in.csv",
            columns=["prompt"],
            total=1,
            state=BulkState.IMPORTING,
            submitted_at=0.0,
        )
        self.both(lambda store, _: store.add_bulk(bulk))

    @precondition(lambda self: self.bulk_ids)
    @rule(which=NUMBERS, first=st.integers(0, 6), batch=st.lists(drafts(), min_size=1, max_size=3))
    def add_rows(self, which: int, first: int, batch: list[dict[str, Any]]) -> None:
        bulk_id = self.bulk_ids[which % len(self.bulk_ids)]
        rows = [
            NewJob(id=self.new_id(), bulk_id=bulk_id, bulk_index=index, cells=["x"], **fields)
            for index, fields in enumerate(batch, first)
        ]
        self.ids += [row.id for row in rows]
        self.both(lambda store, _: store.add(rows))

    @precondition(lambda self: self.bulk_ids)
    @rule(which=NUMBERS)
    def accept_bulk(self, which: int) -> None:
        bulk_id = self.bulk_ids[which % len(self.bulk_ids)]
        self.both(lambda store, _: store.accept_bulk(bulk_id))

    @precondition(lambda self: self.bulk_ids)
    @rule(which=NUMBERS, to=st.sampled_from([BulkState.CANCELLED, BulkState.ABANDONED]))
    def cancel_bulk(self, which: int, to: BulkState) -> None:
        bulk_id = self.bulk_ids[which % len(self.bulk_ids)]
        self.both(lambda store, _: store.cancel_bulk(bulk_id, to))

    @precondition(lambda self: self.bulk_ids)
    @rule(which=NUMBERS)
    def cancel_rows(self, which: int) -> None:
        bulk_id = self.bulk_ids[which % len(self.bulk_ids)]
        self.both(lambda store, _: store.cancel_rows(bulk_id, at_most=100), each=sorted)

    @rule(
        model=st.sampled_from(MODELS),
        limit=st.integers(1, 5),
        lease_seconds=SPANS,
        suspects=st.booleans(),
    )
    def claim(self, model: str, limit: int, lease_seconds: float, suspects: bool) -> None:
        mine, theirs = self.both(
            lambda store, _: store.claim(
                model, limit, worker="w", lease_seconds=lease_seconds, suspects=suspects
            )
        )
        self.claimed += zip(mine, theirs, strict=True)

    @precondition(lambda self: self.claimed)
    @rule(
        ends=st.lists(
            st.tuples(
                NUMBERS,
                st.sampled_from(
                    [Event.SUCCEED, Event.FAIL, Event.REQUEUE, Event.RELEASE, Event.BURY]
                ),
            ),
            max_size=6,
        ),
        delay=st.sampled_from([0.0, 1000.0]),
        suspect=st.booleans(),
    )
    def finish(self, ends: list[tuple[int, Event]], delay: float, suspect: bool) -> None:
        def outcomes(which: int) -> list[Outcome]:
            return [
                Outcome(
                    lease=self.claimed[-1 - number % len(self.claimed)][which].lease,
                    event=event,
                    result=RESULT if event is Event.SUCCEED else None,
                    error=ERROR if event in (Event.FAIL, Event.REQUEUE, Event.BURY) else None,
                    fingerprint="f",
                    delay=delay,
                    suspect=suspect and event is not Event.SUCCEED,
                )
                for number, event in ends
            ]

        self.both(lambda store, which: states_after(store, outcomes(which)))

    @precondition(lambda self: self.claimed)
    @rule(numbers=st.lists(NUMBERS, max_size=6), lease_seconds=SPANS)
    def heartbeat(self, numbers: list[int], lease_seconds: float) -> None:
        pairs = [self.claimed[-1 - number % len(self.claimed)] for number in numbers]

        def held(store: Store, which: int) -> set[tuple[str, int]]:
            leases = [pair[which].lease for pair in pairs]
            kept = store.heartbeat(leases, lease_seconds=lease_seconds)
            # each store makes tokens of its own
            return {(lease.job_id, lease.attempt) for lease in kept}

        self.both(held)

    @precondition(lambda self: self.ids)
    @rule(number=NUMBERS)
    def cancel(self, number: int) -> None:
        job_id = self.ids[-1 - number % len(self.ids)]
        self.both(lambda store, _: store.cancel(job_id))

    @precondition(lambda self: self.ids)
    @rule(number=NUMBERS, fields=drafts())
    def replay(self, number: int, fields: dict[str, Any]) -> None:
        job_id = self.ids[-1 - number % len(self.ids)]
        draft = NewJob(id=job_id, **fields | {"ended": None})
        self.both(lambda store, _: store.replay(draft))

    @precondition(lambda self: self.bulk_ids)
    @rule(which=NUMBERS)
    def replay_bulk(self, which: int) -> None:
        bulk_id = self.bulk_ids[which % len(self.bulk_ids)]
        self.both(lambda store, _: store.replay_bulk(bulk_id, attempts=2, slack_seconds=[5.0] * 10))

    @rule(models=st.permutations(MODELS), at_most=st.integers(1, 3))
    def reroute(self, models: list[str], at_most: int) -> None:
        self.both(lambda store, _: store.reroute("r", *models, at_most=at_most))

    @rule()
    def requeue_lapsed(self) -> None:
        self.both(lambda store, _: store.requeue_lapsed())

    @rule()
    def forget_keys(self) -> None:
        self.both(lambda store, _: store.forget_keys())

    @rule()
    def expire_overdue(self) -> None:
        self.both(lambda store, _: store.expire_overdue(), each=sorted)

    @invariant()
    def both_look_the_same(self) -> None:
        self.both(lambda store, _: store.get_many(self.ids))
        self.both(lambda store, _: store.counts())
        self.both(lambda store, _: store.backlog(MODELS, 3))
        self.both(lambda store, _: store.ending_bulks(), each=sorted)
        self.both(lambda store, _: list(store.search(JobFilter(state=State.QUEUED), limit=5)))
        self.both(lambda store, _: store.find_results(["f"], max_age=1000.0))
        for bulk_id in self.bulk_ids:
            self.both(lambda store, _, bulk_id=bulk_id: store.get_bulk(bulk_id))
            self.both(lambda store, _, bulk_id=bulk_id: list(store.bulk_rows(bulk_id, chunk=2)))
            self.both(lambda store, _, bulk_id=bulk_id: store.bulk_progress(bulk_id).counts)

    @invariant()
    def every_change_is_a_legal_transition(self) -> None:
        for job in self.sqlite.get_many(self.ids).values():
            before = self.states.setdefault(job.id, job.state)
            assert before is job.state or (before, job.state) in LEGAL
            assert (job.result is not None) == (job.state is State.SUCCEEDED)
            assert (job.lease_token is not None) == (job.state is State.RUNNING)
            assert (job.finished_at is not None) == (job.state in TERMINAL)
            self.states[job.id] = job.state


def test_memory_and_sqlite_answer_the_same(tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    schema.upgrade(f"sqlite:///{empty}")
    files = (Path(shutil.copy(empty, tmp_path / f"{number}.db")) for number in count())
    run_state_machine_as_test(
        lambda: TwoStores(next(files)),
        settings=settings(max_examples=40, stateful_step_count=25, deadline=None),
    )
