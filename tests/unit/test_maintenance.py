"""What the scheduler's rounds promise, with everything in memory."""

import pytest

from nexus_jobs.fleet import ModelState, ServedModel, WorkerReport
from nexus_jobs.job import Bulk, BulkState, Idempotency, NewJob, Request
from nexus_jobs.maintenance import Maintenance
from nexus_jobs.models import ModelConfig
from nexus_jobs.ports import Channel
from nexus_jobs.route import Route
from nexus_jobs.states import State
from tests.unit.memory_services import ask


@pytest.fixture
def maintenance(services) -> Maintenance:
    platform = services.platform
    return Maintenance(
        store=platform.store, bulks=platform.store, fleet=platform.store,
        routes=platform.store, tickets=platform.tickets, signals=platform.signals,
        import_timeout=60,
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


@pytest.fixture
def bulk(services) -> Bulk:
    """A bulk of five rows that was cancelled by an API process that died before the rows were."""
    store = services.platform.store
    new = Bulk(
        id="b", model="simulated", filename="", columns=["prompt"], total=5,
        state=BulkState.IMPORTING, submitted_at=0.0,
    )  # fmt: skip
    bulk = store.add_bulk(new)
    store.add(
        [
            NewJob(id=str(i), request=ask(), slack=0.0, bulk_id="b", bulk_index=i, cells=["x"])
            for i in range(5)
        ]
    )
    store.accept_bulk("b")
    store.cancel_bulk("b")
    return bulk


def test_what_a_killed_process_left_of_a_cancelled_bulk_is_cancelled(services, maintenance, bulk):
    heard = {channel: [] for channel in Channel}
    for channel, ids in heard.items():
        services.platform.signals.listen(channel, ids.extend)
    maintenance.round()
    rows = services.platform.store.bulk_rows(bulk.id)
    assert {row.state for row in rows} == {State.CANCELLED}
    assert all(sorted(ids) == list("01234") for ids in heard.values())


def test_a_round_cancels_a_bounded_number_of_rows(services, maintenance, bulk, monkeypatch):
    monkeypatch.setattr("nexus_jobs.maintenance.TELL_JOBS", 2)
    monkeypatch.setattr("nexus_jobs.maintenance.CANCELLED_GROUPS", 2)
    progress = services.platform.store.bulk_progress
    maintenance.round()
    assert progress(bulk.id).counts[State.CANCELLED] == 4
    maintenance.round()
    assert progress(bulk.id).counts[State.CANCELLED] == 5


class TestFailedModels:
    MODELS = ("a", "b", "c")

    @pytest.fixture(autouse=True)
    def _registry(self, services):
        self.store = services.platform.store
        self.store.sync_models([ModelConfig(name=name, type="simulated") for name in self.MODELS])
        targets = [{"model": "a"}, {"model": "b"}]
        self.store.put_route(Route(name="r", targets=targets, fallback=["c"]))
        self.tickets = services.platform.tickets

    def serve(self, worker="w", **states):
        served = {model: ServedModel(ModelState(state)) for model, state in states.items()}
        self.store.report(
            WorkerReport(id=worker, host="h", pid=1, device="cpu", models=served, fixed=True)
        )

    def add(self, count=3, route="r", model="a"):
        request = Request(model=model, prompt="x")
        new = [
            NewJob(id=f"{route}{i}", request=request, slack=0.0, route=route) for i in range(count)
        ]
        self.store.add(new)

    @property
    def queued(self):
        return {model: count for (model, _), count in self.store.counts().items()}

    def test_its_queued_jobs_go_to_the_next_model_of_their_route(self, maintenance):
        self.add()
        self.add(1, route=None)
        self.serve(a="failed", b="ready", c="ready")
        maintenance.round()
        assert self.queued == {"a": 1, "b": 3}
        assert self.tickets.waiting("b")

    def test_a_fallback_takes_them_where_no_target_can(self, maintenance):
        self.add()
        self.serve(a="failed", b="failed", c="loading")
        maintenance.round()
        assert self.queued == {"c": 3}

    def test_they_wait_where_nobody_can_take_them(self, maintenance):
        self.add()
        self.serve(a="failed", b="failed")
        maintenance.round()
        assert self.queued == {"a": 3}

    @pytest.mark.parametrize("state", ["ready", "loading"])
    def test_one_worker_that_has_the_model_keeps_them(self, maintenance, state):
        self.add(model="b")
        self.serve(a="ready", b="failed")
        self.serve("w2", b=state)
        maintenance.round()
        assert self.queued == {"b": 3}

    def test_a_round_moves_a_bounded_number(self, maintenance, monkeypatch):
        monkeypatch.setattr("nexus_jobs.maintenance.MOVED_JOBS", 2)
        self.add()
        self.serve(a="failed", b="ready")
        maintenance.round()
        assert self.queued == {"a": 1, "b": 2}
        maintenance.round()
        assert self.queued == {"b": 3}
