"""What a store tells of the queues."""

from __future__ import annotations

from tests.contract.stores import Store, claim, new_bulk, new_job


def test_arrivals_are_the_jobs_that_came_one_by_one_of_late(store: Store) -> None:
    bulk = store.add_bulk(new_bulk())
    store.add([new_job(), new_job(), new_job(model="b")])
    store.add([new_job(bulk_id=bulk.id, bulk_index=0)])
    assert store.arrivals(60) == {"m": 2, "b": 1}
    claim(store)
    assert store.arrivals(60) == {"m": 2, "b": 1}
    assert store.arrivals(-60) == {}


def test_the_position_counts_the_queued_jobs_of_the_model_that_are_due_before(store: Store) -> None:
    store.add([new_job(model="b", slack=0.0)])
    jobs = store.add([new_job(slack=slack) for slack in (30.0, 10.0, 20.0, 10.0)])
    assert [store.position(job, 10) for job in jobs] == [3, 0, 2, 1]
    assert store.position(jobs[0], 2) == 2
    claim(store)
    assert [store.position(job, 10) for job in jobs[2:]] == [1, 0]
