"""A worker with everything in memory, for tests."""

import threading
import time

from nexus_jobs.adapters.engines.simulated import SimulatedEngine
from nexus_jobs.bootstrap import connect_memory
from nexus_jobs.config import Settings
from nexus_jobs.fleet import Action, Decision
from nexus_jobs.job import NewJob, Request, SamplingParams
from nexus_jobs.models import ModelConfig, SimulatedTimes
from tests.e2e.stack import until
from workers.device import Device

MODEL = ModelConfig(name="simulated", type="simulated", max_batch_size=4)


class Worker:
    """A device on memory adapters, and short ways to use it."""

    def __init__(
        self,
        build=None,
        model=MODEL,
        grace_seconds=5,
        stuck_seconds=60,
        managed=False,
        **jobs,
    ):
        self.subscribed = set()
        settings = Settings(
            worker={
                "poll_seconds": 0.05,
                "grace_seconds": grace_seconds,
                "stuck_seconds": stuck_seconds,
            },
            jobs={"retry_seconds": 0.01, **jobs},
        )
        self.platform = connect_memory([model], settings)
        self.store = self.platform.store
        self.device = Device(
            self.platform, name="w", fixed=None if managed else [model.name],
            build_engine=engine if build is None else build, subscribe=self._subscribe,
        )  # fmt: skip

    def _subscribe(self, models):
        self.subscribed = set(models)

    def add(self, *prompts: str, slack=0.0, bulk=None, **params) -> list[str]:
        self._ids = [f"{time.monotonic_ns():020}-{i}" for i in range(len(prompts))]
        new = [
            NewJob(
                id=job_id, slack=slack, bulk_id=bulk, bulk_index=index if bulk else None,
                request=Request(
                    model="simulated", prompt=prompt, params=SamplingParams(**params)
                ),
            )
            for index, (job_id, prompt) in enumerate(zip(self._ids, prompts, strict=True))
        ]  # fmt: skip
        self.store.add(new)
        return self._ids

    def ticket(self, count):
        """Bring a ticket; what it returns is set when it may go."""
        gone = threading.Event()
        if not self.device.announce("simulated", count, gone.set):
            gone.set()
        return gone

    def ended(self, ids):
        return until(lambda: self._all_ended(ids), timeout=20)

    def _all_ended(self, ids):
        jobs = self.store.get_many(ids)
        return [jobs[i] for i in ids] if all(jobs[i].ended for i in ids) else None

    def state(self, job_id):
        return self.store.get(job_id).state


def engine(model, **times):
    return SimulatedEngine(SimulatedTimes(**times), model.max_batch_size, 256)


def slow_engine(model):
    return engine(model, step_ms=5)


class Kept(SimulatedEngine):
    """Notes that it was closed."""

    def __init__(self, model, times=None):
        super().__init__(times or SimulatedTimes(), model.max_batch_size, 256)
        self.model, self.closed = model, threading.Event()

    def close(self):
        self.closed.set()
        super().close()


class Engines(list):
    """Builds engines and keeps them."""

    def __init__(self, **times):
        self._times = SimulatedTimes(**times)

    def __call__(self, model):
        self.append(Kept(model, self._times))
        return self[-1]


def decide(worker, action, *models):
    store = worker.store
    assert store.lead("test", seconds=60)
    reasons = [Decision(action=action, model=m, worker="w", reason="the test") for m in models]
    assert store.decide("test", reasons)


def assign(worker, *models):
    decide(worker, Action.LOAD, *models)


def unassign(worker, *models):
    decide(worker, Action.UNLOAD, *models)


def report(worker, model="simulated"):
    return worker.device._report().models.get(model)


def is_in(worker, state, model="simulated"):
    there = report(worker, model)
    return there is not None and there.state is state
