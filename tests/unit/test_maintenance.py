"""What the scheduler's rounds promise, with everything in memory."""

import pytest

from nexus_jobs.job import Idempotency, NewJob
from nexus_jobs.maintenance import Maintenance
from tests.unit.memory_services import ask


@pytest.fixture
def maintenance(services) -> Maintenance:
    platform = services.platform
    return Maintenance(
        store=platform.store, bulks=platform.store, fleet=platform.store,
        tickets=platform.tickets, signals=platform.signals, import_timeout=60,
    )  # fmt: skip


def test_a_round_forgets_keys_whose_time_is_over(services, maintenance):
    store = services.platform.store
    for name, seconds in (("old", -1.0), ("young", 60.0)):
        key = Idempotency(key=name, digest="d", seconds=seconds)
        store.add([NewJob(id=name, request=ask(), slack=0.0, idempotency=key)])
    maintenance.round()
    assert store.forget_keys() == 0
    again = Idempotency(key="young", digest="d", seconds=60.0)
    (job,) = store.add([NewJob(id="new", request=ask(), slack=0.0, idempotency=again)])
    assert job.id == "young"
