"""What an engine has done before it meets its first job."""

import pytest

from nexus_jobs.adapters.engines.simulated import SimulatedEngine
from nexus_jobs.errors import OutOfMemory
from nexus_jobs.execution import WARM_UP_SECONDS, warm_up
from nexus_jobs.models import SimulatedTimes


class Noted(SimulatedEngine):
    """Notes the rows of its batches."""

    def __init__(self, slots, **times):
        self.batches = []
        super().__init__(SimulatedTimes(**times), slots, 8)

    def admit(self, sequences):
        self.batches.append(len(sequences))
        assert all(len(row.prompt) < 8 for row in sequences)
        super().admit(sequences)


@pytest.mark.parametrize(
    ("slots", "batches"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (11, [1, 2, 4, 8, 11])]
)
def test_it_has_run_batches_of_every_order_of_size(slots, batches):
    engine = Noted(slots)
    warm_up(engine)
    assert engine.batches == batches
    assert engine.step() == []


def test_it_does_not_keep_jobs_waiting_for_long():
    engine, now = Noted(64), iter([0.0, 0.5 * WARM_UP_SECONDS, 1.1 * WARM_UP_SECONDS])
    warm_up(engine, lambda: next(now))
    assert engine.batches == [1, 2]


def test_a_batch_that_does_not_fit_is_no_failure_but_a_row_is():
    engine = Noted(8, memory_rows=3)
    warm_up(engine)
    assert engine.batches == [1, 2, 4]

    class NoRoom(Noted):
        def step(self):
            raise OutOfMemory("none")

    with pytest.raises(OutOfMemory):
        warm_up(NoRoom(8))
