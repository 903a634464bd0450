"""What a store promises about submissions that are repeated under an idempotency key."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from nexus_jobs.adapters.database import Database
from nexus_jobs.adapters.sql_keys import keep_keys
from nexus_jobs.adapters.sql_store import SqlStore
from nexus_jobs.errors import Conflict, InvalidRequest, StoreUnavailable
from nexus_jobs.job import Cached, Ended, Idempotency, NewJob
from nexus_jobs.ports import JobFilter
from nexus_jobs.states import Event, State
from tests.contract.stores import RESULT, Store, claim, eventually, finish, new_job

PROCESSES = 4
KEYS = [f"k{number}" for number in range(40)]
OVER = -1.0
"""Seconds of a key that has run out as soon as it is kept."""


def keyed(key: str = "k", *, digest: str = "d", seconds: float = 60.0, **fields: Any) -> NewJob:
    mine = Idempotency(key=key, digest=digest, seconds=seconds)
    return new_job(idempotency=mine, **fields)


def stored_ids(store: Store) -> set[str]:
    return {job.id for job in store.search(JobFilter(), limit=1000)}


def test_the_same_key_and_submission_give_the_same_job(store: Store) -> None:
    (first,) = store.add([keyed()])
    assert store.add([keyed()]) == [first]
    assert stored_ids(store) == {first.id}


def test_another_key_gives_another_job(store: Store) -> None:
    first, second = store.add([keyed("a"), keyed("A")])
    assert stored_ids(store) == {first.id, second.id}


def test_the_job_of_a_key_is_found(store: Store) -> None:
    mine = keyed()
    assert mine.idempotency is not None
    assert store.find_keyed(mine.idempotency) is None
    store.add([mine, keyed("over", seconds=OVER)])
    (running,) = claim(store, 1)
    assert store.find_keyed(mine.idempotency) == running
    assert store.find_keyed(Idempotency(key="over", digest="d", seconds=1)) is None
    with pytest.raises(InvalidRequest, match="belongs to another request"):
        store.find_keyed(replace(mine.idempotency, digest="other"))


def test_a_repetition_shows_the_job_as_it_is_now(store: Store) -> None:
    store.add([keyed()])
    (running,) = claim(store)
    assert store.add([keyed()]) == [running]
    finish(store, [running], Event.SUCCEED)
    (ended,) = store.add([keyed()])
    assert (ended.id, ended.state, ended.result) == (running.id, State.SUCCEEDED, RESULT)


def test_a_repetition_that_a_cache_could_answer_is_still_the_same_job(store: Store) -> None:
    (first,) = store.add([keyed()])
    (again,) = store.add([keyed(ended=Ended(result=RESULT, cached=Cached.REDIS))])
    assert again == first


def test_a_job_that_a_cache_answered_is_found_with_its_result(store: Store) -> None:
    (first,) = store.add([keyed(ended=Ended(result=RESULT, cached=Cached.REDIS))])
    (again,) = store.add([keyed()])
    assert again == first
    assert again.result == RESULT


def test_equal_keys_in_one_group_make_one_job_among_the_others(store: Store) -> None:
    (old,) = store.add([keyed("old")])
    new = [new_job(), keyed("a"), keyed("old"), keyed("b"), keyed("a"), new_job()]
    added = [job.id for job in store.add(new)]
    assert added == [new[0].id, new[1].id, old.id, new[3].id, new[1].id, new[5].id]
    assert stored_ids(store) == set(added)


def test_a_key_of_another_submission_is_refused_and_nothing_of_the_call_is_stored(
    store: Store,
) -> None:
    (first,) = store.add([keyed()])
    with pytest.raises(InvalidRequest) as caught:
        store.add([new_job(), keyed("fresh"), keyed(digest="other")])
    assert caught.value.code == "idempotency_key_reused"
    assert stored_ids(store) == {first.id}
    fresh = keyed("fresh", digest="of something else")
    assert store.add([fresh])[0].id == fresh.id


def test_one_key_for_two_submissions_in_one_group_is_refused(store: Store) -> None:
    with pytest.raises(InvalidRequest):
        store.add([keyed(digest="a"), keyed(digest="b")])
    assert stored_ids(store) == set()


def test_a_key_is_not_kept_without_its_job(store: Store) -> None:
    (old,) = store.add([new_job()])
    with pytest.raises(Conflict):
        store.add([keyed(), new_job(id=old.id)])
    again = keyed(digest="other")
    assert store.add([again])[0].id == again.id


def test_a_key_counts_as_new_when_its_time_is_over(store: Store) -> None:
    (first,) = store.add([keyed(seconds=OVER)])
    (second,) = store.add([keyed(digest="other")])
    assert second.id != first.id
    assert store.add([keyed(digest="other")]) == [second]
    assert stored_ids(store) == {first.id, second.id}


def test_the_time_of_a_key_counts_from_its_first_acceptance(store: Store) -> None:
    (first,) = store.add([keyed(seconds=0.2)])
    eventually(lambda: store.add([keyed(seconds=0.2)])[0].id != first.id, timeout=5)


def test_only_keys_whose_time_is_over_are_forgotten(store: Store) -> None:
    store.add([keyed("a", seconds=OVER), keyed("b", seconds=OVER)])
    (kept,) = store.add([keyed()])
    assert store.forget_keys() == 2
    assert store.forget_keys() == 0
    assert store.add([keyed()]) == [kept]


def test_threads_that_repeat_a_submission_at_once_get_one_job(store: Store) -> None:
    together = threading.Barrier(8)

    def submit(_: int) -> str:
        together.wait()
        return store.add([keyed(), new_job()])[0].id

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(submit, range(8)))
    assert len(ids) == 1
    assert len(stored_ids(store)) == 1 + 8


def test_groups_that_have_their_keys_in_opposite_orders_do_not_deadlock(sql_store: Store) -> None:
    together = threading.Barrier(2, timeout=10)

    def submit(order: int) -> list[set[str]]:
        added = []
        for turn in range(5):
            names = [f"{turn}/{number:03}" for number in range(200)][::order]
            together.wait()
            added.append({job.id for job in sql_store.add([keyed(name) for name in names])})
        return added

    with ThreadPoolExecutor(2) as pool:
        forth, back = pool.map(submit, [1, -1])
    assert forth == back


def submit_all(url: str, turn: int) -> dict[str, str]:
    """Submit under every key, beginning at another one in each process; the jobs' ids."""
    store = SqlStore(url, pool_size=2)
    mine = KEYS[turn:] + KEYS[:turn]
    ids: dict[str, str] = {}
    for start in range(0, len(mine), 10):
        names = mine[start : start + 10]
        jobs = store.add([keyed(name) for name in names])
        ids |= {name: job.id for name, job in zip(names, jobs, strict=True)}
    store.close()
    return ids


def test_processes_that_repeat_submissions_at_once_agree_on_the_jobs(database_url: str) -> None:
    turns = [(database_url, 9 * turn) for turn in range(PROCESSES)]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        answers = pool.starmap(submit_all, turns, chunksize=1)
    assert answers == [answers[0]] * PROCESSES
    assert set(answers[0]) == set(KEYS)
    store = SqlStore(database_url, pool_size=1)
    assert stored_ids(store) == set(answers[0].values())
    store.close()


class GivesUp(Exception):
    pass


@contextmanager
def in_hand(url: str, job: NewJob) -> Iterator[None]:
    """Another process that has taken a key and not committed; it gives up in the end."""
    database = Database(url, pool_size=1)
    with pytest.raises(GivesUp), database.write() as connection:  # noqa: PT012
        keep_keys(connection, [job])
        yield
        raise GivesUp
    database.close()


def test_a_key_whose_taker_gives_up_goes_to_the_one_who_waits(
    sql_store: Store, database_url: str
) -> None:
    mine = keyed()
    with ThreadPoolExecutor(1) as pool:
        with in_hand(database_url, keyed(digest="other")):
            waiting = pool.submit(sql_store.add, [mine])
            with pytest.raises(TimeoutError):
                waiting.result(0.1)
        assert waiting.result(10)[0].id == mine.id


def test_a_process_that_freezes_with_a_key_in_hand_holds_nobody_up_for_long(
    empty_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexus_jobs.adapters.sql_engines.FROZEN_TIMEOUT", 0.1)
    frozen, store = Database(empty_postgres, pool_size=1), SqlStore(empty_postgres, pool_size=1)
    mine = keyed()
    with pytest.raises(StoreUnavailable), frozen.write() as connection:  # noqa: PT012
        keep_keys(connection, [keyed()])
        assert store.add([mine])[0].id == mine.id
    frozen.close()
    store.close()


def test_forgetting_waits_for_nobody(empty_postgres: str) -> None:
    store = SqlStore(empty_postgres, pool_size=1)
    store.add([keyed("a", seconds=OVER), keyed("b", seconds=OVER)])
    with in_hand(empty_postgres, keyed("a")):
        assert store.forget_keys() == 1
    assert store.forget_keys() == 1
    store.close()
