"""What a store promises about bulks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from nexus_jobs.errors import Conflict
from nexus_jobs.job import Bulk, BulkState, Cached, Ended, Job, NewJob
from nexus_jobs.ports import JobFilter
from nexus_jobs.states import Event, State
from tests.contract.stores import (
    RESULT,
    Store,
    claim,
    eventually,
    finish,
    new_bulk,
    new_id,
    new_job,
    outcome,
)


def rows_of(bulk: Bulk, count: int, start: int = 0) -> list[NewJob]:
    return [
        new_job(bulk_id=bulk.id, bulk_index=i, cells=[str(i), f"say {i}"])
        for i in range(start, start + count)
    ]


def bulk_of(store: Store, count: int) -> tuple[Bulk, list[Job]]:
    bulk = store.add_bulk(new_bulk(total=count))
    return bulk, store.add(rows_of(bulk, count))


def cancelled_rows(store: Store, bulk: Bulk, at_most: int = 100) -> list[str]:
    """The ids of the rows that were cancelled, group by group."""
    groups = iter(lambda: store.cancel_rows(bulk.id, at_most=at_most), [])
    return sorted(job_id for group in groups for job_id in group)


def test_a_bulk_comes_back_as_it_was_added(store: Store) -> None:
    added = store.add_bulk(new_bulk(columns=["id", "prompt", "Größe"], total=7))
    assert store.get_bulk(added.id) == added
    assert added.submitted_at > 0.0
    assert store.get_bulk(new_id()) is None


def test_rows_keep_their_cells(store: Store) -> None:
    bulk, (row, *_) = bulk_of(store, 2)
    found = store.get(row.id)
    assert found is not None
    assert (found.bulk_id, found.bulk_index, found.cells) == (bulk.id, 0, ["0", "say 0"])


def test_an_imported_bulk_is_accepted_once(store: Store) -> None:
    bulk, _ = bulk_of(store, 1)
    assert store.accept_bulk(bulk.id).state is BulkState.ACCEPTED
    with pytest.raises(Conflict):
        store.accept_bulk(bulk.id)
    with pytest.raises(Conflict):
        store.accept_bulk(new_id())


@pytest.mark.parametrize("to", [BulkState.CANCELLED, BulkState.ABANDONED])
def test_a_bulk_that_is_given_up_takes_no_more_rows(store: Store, to: BulkState) -> None:
    bulk, rows = bulk_of(store, 2)
    assert store.cancel_bulk(bulk.id, to)
    assert cancelled_rows(store, bulk) == [row.id for row in rows]
    late = new_job()
    with pytest.raises(Conflict):
        store.add([late, *rows_of(bulk, 1, start=2)])
    assert store.get(late.id) is None
    with pytest.raises(Conflict):
        store.accept_bulk(bulk.id)


def test_an_accepted_bulk_takes_no_more_rows(store: Store) -> None:
    bulk, _ = bulk_of(store, 1)
    store.accept_bulk(bulk.id)
    with pytest.raises(Conflict):
        store.add(rows_of(bulk, 1, start=1))


def test_a_row_of_no_bulk_is_refused(store: Store) -> None:
    with pytest.raises(Conflict):
        store.add(rows_of(new_bulk(), 1))


def test_a_row_is_imported_once(store: Store) -> None:
    bulk, _ = bulk_of(store, 2)
    with pytest.raises(Conflict):
        store.add(rows_of(bulk, 1, start=1))
    assert len(list(store.bulk_rows(bulk.id))) == 2


def test_cancelling_a_bulk_cancels_what_has_not_ended(store: Store) -> None:
    bulk, rows = bulk_of(store, 4)
    store.accept_bulk(bulk.id)
    (other,) = store.add([new_job()])
    done, runs = claim(store, 2)
    finish(store, [done], Event.SUCCEED)
    assert store.cancel_bulk(bulk.id)
    assert cancelled_rows(store, bulk) == sorted({row.id for row in rows} - {done.id})
    assert store.finish([]) == {}
    assert store.heartbeat([runs.lease], lease_seconds=60.0) == set()
    states = [row.state for row in store.bulk_rows(bulk.id)]
    assert states == [State.SUCCEEDED, *[State.CANCELLED] * 3]
    assert [job.id for job in claim(store, 10)] == [other.id]
    found = store.get_bulk(bulk.id)
    assert found is not None
    assert found.state is BulkState.CANCELLED
    assert not store.cancel_bulk(bulk.id)
    assert cancelled_rows(store, bulk) == []


def test_the_rows_of_a_bulk_are_cancelled_in_groups_the_queued_ones_first(store: Store) -> None:
    bulk, rows = bulk_of(store, 5)
    store.accept_bulk(bulk.id)
    running = [job.id for job in claim(store, 2)]
    store.cancel_bulk(bulk.id)
    first, second = (store.cancel_rows(bulk.id, at_most=2) for _ in range(2))
    assert (len(first), len(second)) == (2, 2)
    assert {*first, *second} > {row.id for row in rows} - {*running}
    assert store.ending_bulks() == [bulk.id]
    assert len(store.cancel_rows(bulk.id, at_most=2)) == 1
    assert store.cancel_rows(bulk.id, at_most=2) == []
    assert store.ending_bulks() == []
    assert {row.state for row in store.bulk_rows(bulk.id)} == {State.CANCELLED}


def test_a_row_that_is_replayed_after_its_bulk_was_cancelled_runs(store: Store) -> None:
    bulk, _ = bulk_of(store, 1)
    store.accept_bulk(bulk.id)
    (failed,) = claim(store)
    finish(store, [failed], Event.FAIL)
    store.cancel_bulk(bulk.id)
    assert cancelled_rows(store, bulk) == []
    store.replay(new_job(id=failed.id))
    assert cancelled_rows(store, bulk) == []
    assert [job.id for job in claim(store)] == [failed.id]


def test_no_row_escapes_those_who_cancel_a_bulk_while_it_runs(store: Store) -> None:
    bulk, rows = bulk_of(store, 40)
    store.accept_bulk(bulk.id)
    store.cancel_bulk(bulk.id)

    def run() -> None:
        while claimed := claim(store, 3):
            store.finish([outcome(job, Event.RELEASE) for job in claimed])

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(run) for _ in range(2)]
        cancelling = [threads.submit(cancelled_rows, store, bulk, 3) for _ in range(2)]
    for each in running:
        each.result()
    ids = [job_id for each in cancelling for job_id in each.result()] + cancelled_rows(store, bulk)
    assert sorted(ids) == [row.id for row in rows]
    assert store.ending_bulks() == []


def test_each_of_two_who_cancel_a_bulk_at_once_gets_to_the_end(store: Store) -> None:
    for _ in range(5):
        bulk, rows = bulk_of(store, 40)
        store.cancel_bulk(bulk.id)
        start = Barrier(2)

        def cancel(bulk: Bulk = bulk, start: Barrier = start) -> tuple[list[str], int]:
            start.wait()
            ids = cancelled_rows(store, bulk, 4)
            return ids, store.bulk_progress(bulk.id).counts[State.CANCELLED]

        with ThreadPoolExecutor(2) as threads:
            ends = [each.result() for each in [threads.submit(cancel) for _ in range(2)]]
        assert sorted(ends[0][0] + ends[1][0]) == [row.id for row in rows]
        assert [count for _, count in ends] == [40, 40]


def test_rows_are_cancelled_of_no_bulk_that_is_not_given_up(store: Store) -> None:
    bulk, _ = bulk_of(store, 2)
    assert cancelled_rows(store, bulk) == []
    store.accept_bulk(bulk.id)
    assert cancelled_rows(store, bulk) == []
    assert store.ending_bulks() == []


def test_an_accepted_bulk_cannot_be_abandoned(store: Store) -> None:
    bulk, rows = bulk_of(store, 2)
    accepted = store.accept_bulk(bulk.id)
    assert not store.cancel_bulk(bulk.id, BulkState.ABANDONED)
    assert cancelled_rows(store, bulk) == []
    assert store.get_bulk(bulk.id) == accepted
    assert len(claim(store, 10)) == len(rows)


def test_an_unknown_bulk_has_nothing_to_cancel_or_read(store: Store) -> None:
    assert not store.cancel_bulk(new_id())
    assert store.cancel_rows(new_id(), at_most=1) == []
    assert list(store.bulk_rows(new_id())) == []


def test_rows_that_arrive_while_a_bulk_is_cancelled_do_not_escape(store: Store) -> None:
    for _ in range(5):
        bulk = store.add_bulk(new_bulk())
        start = Barrier(2)

        def feed(bulk: Bulk = bulk, start: Barrier = start) -> None:
            start.wait()
            for i in range(20):
                store.add(rows_of(bulk, 5, start=5 * i))

        with ThreadPoolExecutor(1) as pool:
            feeding = pool.submit(feed)
            start.wait()
            eventually(lambda bulk=bulk: store.bulk_progress(bulk.id).counts[State.QUEUED])
            store.cancel_bulk(bulk.id)
            cancelled_rows(store, bulk)
        assert feeding.exception() is None or isinstance(feeding.exception(), Conflict)
        assert {row.state for row in store.bulk_rows(bulk.id)} == {State.CANCELLED}


@pytest.mark.parametrize("chunk", [1, 3, 10, 1000])
def test_rows_come_in_input_order_with_their_results(store: Store, chunk: int) -> None:
    bulk = store.add_bulk(new_bulk(total=10))
    store.add(rows_of(bulk, 5, start=5)[::-1])
    store.add(rows_of(bulk, 5))
    finish(store, claim(store, 4), Event.SUCCEED)
    rows = list(store.bulk_rows(bulk.id, chunk=chunk))
    assert [row.bulk_index for row in rows] == list(range(10))
    assert [row.cells for row in rows] == [[str(i), f"say {i}"] for i in range(10)]
    assert sum(row.result == RESULT for row in rows) == 4


def test_reading_rows_needs_no_connection_between_chunks(store: Store) -> None:
    bulk, _ = bulk_of(store, 4)
    readers = [store.bulk_rows(bulk.id, chunk=1) for _ in range(20)]
    assert [next(reader).bulk_index for reader in readers] == [0] * 20


def test_a_bulk_shows_in_a_search(store: Store) -> None:
    bulk, rows = bulk_of(store, 3)
    store.add([new_job()])
    found = store.search(JobFilter(bulk_id=bulk.id), limit=10)
    assert [job.id for job in found] == [row.id for row in rows][::-1]


def test_progress_of_a_fresh_bulk(store: Store) -> None:
    bulk, _ = bulk_of(store, 3)
    progress = store.bulk_progress(bulk.id)
    assert {state: n for state, n in progress.counts.items() if n} == {State.QUEUED: 3}
    assert set(progress.counts) == set(State)
    assert (progress.first_start, progress.last_finish) == (None, None)
    assert (progress.recent_rows, progress.recent_tokens) == (0, 0)


def test_progress_counts_states_recent_rows_and_tokens(store: Store) -> None:
    bulk, _ = bulk_of(store, 6)
    store.add([new_job(slack=-60.0)])  # another job, which runs first, must not be counted
    _, first, second, failed, _ = jobs = claim(store, 5)
    finish(store, [jobs[0], first, second], Event.SUCCEED)
    finish(store, [failed], Event.FAIL)
    progress = store.bulk_progress(bulk.id)
    assert {state: n for state, n in progress.counts.items() if n} == {
        State.SUCCEEDED: 2,
        State.FAILED: 1,
        State.RUNNING: 1,
        State.QUEUED: 2,
    }
    assert progress.window == 10.0
    assert progress.recent_rows == 2
    assert progress.recent_tokens == 2 * RESULT.completion_tokens
    assert progress.first_start is not None
    assert progress.last_finish is not None
    assert progress.first_start <= progress.last_finish <= progress.now


def test_progress_forgets_what_is_not_recent(store: Store) -> None:
    bulk, _ = bulk_of(store, 1)
    finish(store, claim(store), Event.SUCCEED)
    eventually(lambda: store.bulk_progress(bulk.id, window=0.02).recent_rows == 0)
    assert store.bulk_progress(bulk.id).recent_rows == 1


def test_progress_counts_rows_that_were_born_ended(store: Store) -> None:
    bulk = store.add_bulk(new_bulk())
    ended = Ended(result=RESULT, cached=Cached.DATABASE)
    store.add([new_job(bulk_id=bulk.id, bulk_index=0, ended=ended)])
    progress = store.bulk_progress(bulk.id)
    assert progress.counts[State.SUCCEEDED] == 1
    assert (progress.recent_rows, progress.first_start) == (1, None)


def test_an_import_without_new_rows_goes_stale(store: Store) -> None:
    bulk = store.add_bulk(new_bulk())
    accepted, _ = bulk_of(store, 1)
    store.accept_bulk(accepted.id)
    assert store.stale_imports(60.0) == []
    assert eventually(lambda: store.stale_imports(0.02)) == [bulk.id]
    assert store.cancel_bulk(bulk.id, BulkState.ABANDONED)
    assert store.stale_imports(0.0) == []


def test_new_rows_keep_an_import_fresh(store: Store) -> None:
    bulk = store.add_bulk(new_bulk())
    eventually(lambda: store.stale_imports(0.5))
    store.add(rows_of(bulk, 1))
    assert store.stale_imports(0.5) == []
