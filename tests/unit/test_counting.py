"""What reading the progress of a bulk promises."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from nexus_jobs.counting import SHARE, BulkCounts
from tests.e2e.stack import until


class Store:
    """One in which counting takes `seconds` of the clock `now`."""

    def __init__(self):
        self.now, self.seconds, self.calls = 1000.0, 0.0, 0
        self.counting = threading.Event()
        self.counting.set()

    def bulk_progress(self, bulk_id):
        self.calls += 1
        number = self.calls
        self.counting.wait(10)
        self.now += self.seconds
        return f"{bulk_id}, count {number}"


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def counts(store):
    return BulkCounts(store, clock=lambda: store.now)


def test_a_small_bulk_is_counted_each_time(counts):
    assert [counts.of("a"), counts.of("a")] == ["a, count 1", "a, count 2"]


def test_a_count_that_took_long_serves_in_proportion(store, counts):
    store.seconds = 2.0
    first = counts.of("a")
    store.now += 2.0 * SHARE - 0.1
    assert counts.of("a") == first
    store.now += 0.2
    assert counts.of("a") == "a, count 2"


def test_those_who_ask_meanwhile_share_the_answer(store, counts):
    store.seconds = 2.0
    store.counting.clear()
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(counts.of, "a") for _ in range(4)]
        until(lambda: store.calls)
        store.counting.set()
        assert {answer.result(10) for answer in answers} == {"a, count 1"}


def test_bulks_are_counted_apart(store, counts):
    store.seconds = 2.0
    assert [counts.of("a"), counts.of("b"), counts.of("a")][::2] == ["a, count 1"] * 2


def test_what_was_changed_on_purpose_is_counted_anew(store, counts):
    store.seconds = 2.0
    counts.of("a")
    counts.forget("a")
    assert counts.of("a") == "a, count 2"
