"""What reading the progress of a bulk promises."""

import pytest

from nexus_jobs.counting import SHARE, BulkCounts


class Store:
    """One in which counting takes `seconds` of the clock `now`."""

    def __init__(self):
        self.now, self.seconds, self.calls = 1000.0, 0.0, 0

    def bulk_progress(self, bulk_id):
        self.now += self.seconds
        self.calls += 1
        return f"{bulk_id}, count {self.calls}"


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


def test_bulks_are_counted_apart(store, counts):
    store.seconds = 2.0
    assert [counts.of("a"), counts.of("b"), counts.of("a")][::2] == ["a, count 1"] * 2


def test_what_was_changed_on_purpose_is_counted_anew(store, counts):
    store.seconds = 2.0
    counts.of("a")
    counts.forget("a")
    assert counts.of("a") == "a, count 2"
