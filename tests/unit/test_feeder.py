"""Which tickets a batch keeps waiting, and when suspects run."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

from nexus_jobs.batching import BatchPolicy
from tests.e2e.stack import until
from workers.feeder import Feeder


@contextmanager
def feeding(committed: Callable[[int], bool]) -> Iterator[Feeder]:
    """A feeder that claims one suspect and nobody else."""
    feeder = Feeder(
        policy=lambda: BatchPolicy(slots=1_000_000),
        claim=lambda limit, *, suspects=False: ["suspect"] if suspects else [],
        prepare=lambda job: SimpleNamespace(job=job),
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
