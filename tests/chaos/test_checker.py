"""The checker finds nothing in honest histories, and every fault that is planted in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_jobs.chaos.checker import Kind, Row, check
from nexus_jobs.chaos.history import History, Reply, Told, Try, prompt_of
from nexus_jobs.states import State

ENDS = st.sampled_from([State.SUCCEEDED, State.DEAD, State.CANCELLED, State.EXPIRED])


@dataclass
class Story:
    """What clients saw, and the rows by id."""

    history: History = field(default_factory=History)
    rows: dict[str, Row] = field(default_factory=dict)

    def accept(self, number: int, state: State = State.SUCCEEDED, attempt: int = 1) -> Row:
        """A job that was accepted, asked for while it ran, ended, and asked for again."""
        row = self.store(number, state, attempt)
        self.history.tried(Try(number, Reply.ACCEPTED, row.id))
        if state is State.CANCELLED:
            self.history.cancelling(row.id)
        if state is State.EXPIRED:
            self.history.expiring(number)
        running = Told(job_id=row.id, asked=1.0, at=2.0, state=State.RUNNING, attempt=attempt)
        self.history.heard(running, ending(row, at=3.0), ending(row, at=5.0))
        return row

    def store(self, number: int, state: State = State.SUCCEEDED, attempt: int = 1) -> Row:
        prompt = prompt_of(number, 1 + number % 9)
        texts = (prompt,) if state is State.SUCCEEDED else ()
        id = f"job-{len(self.rows)}"
        row = Row(id=id, prompt=prompt, state=state, attempt=attempt, texts=texts)
        self.rows[id] = row
        return row

    def change(self, row: Row, **fields: object) -> None:
        self.rows[row.id] = replace(row, **fields)

    def broken(self) -> dict[Kind, set[str]]:
        found: dict[Kind, set[str]] = {}
        for breach in check(self.history, self.rows.values()).breaches:
            found.setdefault(breach.kind, set()).add(breach.job)
        return found


def ending(row: Row, *, at: float, **fields: object) -> Told:
    told = Told(
        job_id=row.id,
        asked=at - 0.5,
        at=at,
        state=row.state,
        attempt=row.attempt,
        text=row.texts[0] if row.texts else None,
    )
    return replace(told, **fields)


@st.composite
def honest(draw: st.DrawFn) -> Story:
    """Any run in which nothing went wrong, with refusals, broken connections and second tries."""
    story = Story()
    for number in range(draw(st.integers(1, 12))):
        for reply in draw(st.lists(st.sampled_from(Reply), min_size=1, max_size=4)):
            if reply is Reply.ACCEPTED:
                story.accept(number, draw(ENDS), draw(st.integers(0, 3)))
                continue
            story.history.tried(Try(number, reply))
            if draw(st.booleans()):  # it was committed all the same
                ends = [State.SUCCEEDED, State.DEAD, State.CANCELLED]
                story.store(number, draw(st.sampled_from(ends)))
    return story


@given(honest())
def test_an_honest_history_breaks_nothing(story: Story) -> None:
    verdict = check(story.history, story.rows.values())
    assert verdict.breaches == []
    accepted = [one for one in story.history.tries if one.reply is Reply.ACCEPTED]
    assert sum(verdict.unasked.values()) == len(story.rows) - len(accepted)


def lose_row(story: Story, row: Row) -> None:
    del story.rows[row.id]


def never_end(story: Story, row: Row) -> None:
    story.change(row, state=State.QUEUED, texts=())
    story.history.told.clear()


def record_twice(story: Story, row: Row) -> None:
    story.change(row, texts=(row.prompt, row.prompt))


def store_twice(story: Story, row: Row) -> None:
    story.rows["copy"] = replace(row, id="copy")


def forget_it(story: Story, row: Row) -> None:
    story.history.heard(Told(job_id=row.id, asked=6.0, at=6.5, state=None))


def run_after_its_end(story: Story, row: Row) -> None:
    story.history.heard(Told(job_id=row.id, asked=6.0, at=6.5, state=State.RUNNING))


def end_in_another_state(story: Story, row: Row) -> None:
    story.history.heard(ending(row, at=6.0, state=State.DEAD, text=None))


def end_by_another_attempt(story: Story, row: Row) -> None:
    story.history.heard(ending(row, at=6.0, attempt=2))


def tell_another_answer(story: Story, row: Row) -> None:
    story.history.heard(ending(row, at=6.0, text="something else"))


def answer_another_prompt(story: Story, row: Row) -> None:
    other = prompt_of(999, 4)
    story.change(row, texts=(other,))
    story.history.told = [told for told in story.history.told if told.job_id != row.id]
    story.history.heard(ending(row, at=3.0, text=other))


def lose_the_result(story: Story, row: Row) -> None:
    story.change(row, texts=())


def fail(story: Story, row: Row) -> None:
    story.change(row, state=State.FAILED, texts=())
    story.history.told.clear()


def cancel_unasked(story: Story, row: Row) -> None:
    story.change(row, state=State.CANCELLED, texts=())
    story.history.told.clear()


def expire_unasked(story: Story, row: Row) -> None:
    story.change(row, state=State.EXPIRED, texts=())
    story.history.told.clear()


PLANTED: list[tuple[Callable[[Story, Row], None], Kind]] = [
    (lose_row, Kind.LOST),
    (never_end, Kind.LOST),
    (record_twice, Kind.DUPLICATED),
    (store_twice, Kind.DUPLICATED),
    (forget_it, Kind.CONTRADICTORY),
    (run_after_its_end, Kind.CONTRADICTORY),
    (end_in_another_state, Kind.CONTRADICTORY),
    (end_by_another_attempt, Kind.CONTRADICTORY),
    (tell_another_answer, Kind.CONTRADICTORY),
    (answer_another_prompt, Kind.CONTRADICTORY),
    (lose_the_result, Kind.CONTRADICTORY),
    (fail, Kind.CONTRADICTORY),
    (cancel_unasked, Kind.CONTRADICTORY),
    (expire_unasked, Kind.CONTRADICTORY),
]


@pytest.mark.parametrize(("plant", "kind"), PLANTED)
def test_a_planted_fault_is_found_and_named(
    plant: Callable[[Story, Row], None], kind: Kind
) -> None:
    story = Story()
    victim = story.accept(1)
    bystander = story.accept(2)
    plant(story, victim)
    broken = story.broken()
    assert broken[kind] <= {victim.id, "#1"}
    assert bystander.id not in set().union(*broken.values())
    assert set(broken) - {kind} <= {Kind.CONTRADICTORY}


@given(honest(), st.data())
def test_a_row_that_is_missing_is_noticed_in_any_history(story: Story, data: st.DataObject) -> None:
    known = [one.job_id for one in story.history.tries if one.job_id]
    if known:
        missing = data.draw(st.sampled_from(known))
        del story.rows[missing]
        assert missing in story.broken()[Kind.LOST]


@given(honest(), st.data())
def test_a_row_too_many_is_noticed_in_any_history(story: Story, data: st.DataObject) -> None:
    numbers = [one.number for one in story.history.tries]
    number = data.draw(st.sampled_from(numbers))
    for _ in range(len(numbers) + 1):
        story.store(number)
    assert f"#{number}" in story.broken()[Kind.DUPLICATED]


def test_a_file_without_ids_may_not_lose_a_row() -> None:
    story = Story()
    story.history.tried(Try(1, Reply.ACCEPTED), Try(2, Reply.ACCEPTED))
    story.store(1)
    assert story.broken() == {Kind.LOST: {"#2"}}


def test_an_upload_that_broke_off_may_cancel_its_rows_but_no_accepted_one() -> None:
    story = Story()
    story.history.tried(Try(1, Reply.UNKNOWN), Try(1, Reply.ACCEPTED))
    story.store(1, State.CANCELLED)
    story.store(1)
    assert story.broken() == {}
    story.rows = {
        id: replace(row, state=State.CANCELLED, texts=()) for id, row in story.rows.items()
    }
    assert story.broken() == {Kind.CONTRADICTORY: set(story.rows)}


def test_what_was_stored_without_a_202_is_counted_by_what_its_client_saw() -> None:
    story = Story()
    story.history.tried(Try(1, Reply.REFUSED), Try(2, Reply.REFUSED), Try(2, Reply.UNKNOWN))
    story.store(1)
    story.store(2)
    unasked = check(story.history, story.rows.values()).unasked
    assert unasked == {Reply.REFUSED: 1, Reply.UNKNOWN: 1}


def test_a_key_makes_one_row_of_any_number_of_tries() -> None:
    story = Story()
    story.history.keyed(1)
    row = story.accept(1)
    story.history.tried(Try(1, Reply.UNKNOWN), Try(1, Reply.ACCEPTED, row.id))
    assert story.broken() == {}
    story.store(1)
    assert story.broken() == {Kind.DUPLICATED: {"#1"}}
    story.rows.clear()
    assert Kind.LOST in story.broken()
