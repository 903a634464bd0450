"""Which tickets a batch keeps waiting."""

import threading
import time
from types import SimpleNamespace

from nexus_jobs.batching import BatchPolicy
from tests.e2e.stack import until
from workers.feeder import Feeder


def test_a_batch_that_waits_to_run_suspects_alone_keeps_tickets_for_other_workers():
    gone = threading.Event()
    feeder = Feeder(
        policy=lambda: BatchPolicy(slots=1_000_000),
        claim=lambda limit, *, suspects=False: ["suspect"] if suspects else [],
        prepare=lambda job: SimpleNamespace(job=job),
        committed=lambda waiting: False,
        poll_seconds=60,
        clock=time.monotonic,
    )
    thread = threading.Thread(target=feeder.run)
    thread.start()
    try:
        until(lambda: feeder.announce(1, gone.set), timeout=10)
        assert not gone.is_set()
    finally:
        feeder.stop()
        thread.join()
    assert gone.is_set()
