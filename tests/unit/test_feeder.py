"""Which tickets a batch keeps waiting, and when suspects run."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

from nexus_jobs.batching import BUSY_SECONDS, BatchPolicy
from tests.e2e.stack import until
from workers.feeder import Feeder


def one_suspect(limit: int, *, suspects: bool = False) -> list[str]:
    """A claim that takes one suspect and nobody else."""
    return ["suspect"] if suspects else []


@contextmanager
def feeding(
    committed: Callable[[int], bool], claim: Callable[..., list[str]] = one_suspect
) -> Iterator[Feeder]:
    feeder = Feeder(
        policy=lambda: BatchPolicy(slots=1_000_000),
        claim=claim,
        prepare=lambda job: SimpleNamespace(job=job, prompt_length=1),
        committed=committed,
        poll_seconds=60,
        clock=time.monotonic,
    )
    thread = threading.Thread(target=feeder.run)
    thread.start()
    try:
        yield feeder
    finally:
        feeder.stop()
        thread.join()


def test_a_batch_that_waits_to_run_suspects_alone_keeps_tickets_for_other_workers():
    gone = threading.Event()
    with feeding(committed=lambda waiting: False) as feeder:
        until(lambda: feeder.announce(1, gone.set), timeout=10)
        assert not gone.is_set()
    assert gone.is_set()


def test_suspects_run_as_soon_as_the_others_are_committed():
    committed = threading.Event()
    with ThreadPoolExecutor(1) as batch, feeding(lambda _: committed.is_set()) as feeder:
        until(feeder.leftovers, timeout=10)
        ready = batch.submit(feeder.wait, 60)
        until(lambda: feeder._to_join._waiters, timeout=10)
        committed.set()
        feeder.look_again()
        assert ready.result(timeout=10)


def test_a_freed_slot_wakes_nobody_if_there_is_nothing_to_claim():
    queued = ["job"]

    def claim(limit: int, *, suspects: bool = False) -> list[str]:
        return [] if suspects or not queued else [queued.pop()]

    with feeding(lambda _: True, claim) as feeder:
        feeder.announce(1, lambda: None)
        assert feeder.wait(10)
        feeder.take(1, 0.0)
        until(lambda: feeder._to_claim._waiters, timeout=10)
        feeder.free(1)
        assert feeder._to_claim._waiters


def test_a_batch_that_has_become_empty_looks_for_suspects_at_once(monkeypatch):
    """While it is busy, it would not for some seconds."""
    monkeypatch.setattr("workers.feeder.SEARCH_SECONDS", 0.01)
    queued, searches = ["job"], []

    def claim(limit: int, *, suspects: bool = False) -> list[str]:
        if suspects:
            searches.append(time.monotonic())
            return []
        return [queued.pop()] if queued else []

    with feeding(lambda _: True, claim) as feeder:
        until(searches.__len__, timeout=10)
        feeder.announce(1, lambda: None)
        assert feeder.wait(10)
        assert len(feeder.take(1, 0.0)) == 1
        until(lambda: time.monotonic() > searches[-1] + 0.1, timeout=10)
        freed = time.monotonic()
        feeder.free(1)
        until(lambda: searches[-1] > freed, timeout=10)
        assert searches[-1] - freed < BUSY_SECONDS / 2
