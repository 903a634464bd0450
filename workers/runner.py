"""One model on this worker, from the first attempt to load it until it is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import structlog

from nexus_jobs.engine import Engine
from nexus_jobs.errors import ModelUnavailable
from nexus_jobs.fleet import Measured, ModelState, RegisteredModel, ServedModel
from nexus_jobs.job import Lease
from nexus_jobs.models import ModelConfig
from workers import memory
from workers.loading import Loaded, Loader
from workers.serving import Serving, Workplace
from workers.threads import vital_thread
from workers.tickets import LetGo

log = structlog.get_logger(__name__)


class ModelRunner:
    """Loads a model and has its jobs run until drained.

    `changed` is called when the state does, `measured` when the model has been loaded. The public
    methods may be called from any thread.
    """

    def __init__(
        self,
        registered: RegisteredModel,
        place: Workplace,
        *,
        build_engine: Callable[[ModelConfig], Engine],
        changed: Callable[[], None],
        measured: Callable[[str, Measured], None],
    ) -> None:
        self.model = registered.config
        self.version = registered.version
        self.gone = False
        """Its jobs are settled and its memory is given back."""
        self._place = place
        self._changed = changed
        self._measured = measured
        self._lock = threading.Lock()
        self._state = ServedModel(
            ModelState.LOADING, slots=self.model.max_batch_size, version=self.version
        )
        self._early: list[LetGo] = []
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._loader = Loader(
            self.model, build=build_engine, stopping=self._stopping, become=self._become
        )
        self._loaded: Loaded | None = None
        self._serving: Serving | None = None
        self._main = vital_thread(f"batch {self.model.name}", self._run)

    def start(self) -> None:
        """Begin loading; jobs are claimed once the model is ready."""
        self._main.start()

    def announce(self, count: int, let_go: LetGo) -> bool:
        """A ticket tells of so many new jobs; whether it has to wait for them.

        One that comes before the model is ready waits until it is: then whatever is queued is
        claimed, announced or not.
        """
        with self._lock:
            serving = self._serving
            if serving is None and not self._stopping.is_set():
                self._early.append(let_go)
                return True
        return serving is not None and serving.announce(count, let_go)

    @property
    def stuck_for(self) -> float:
        """Seconds since the batch last got on; 0 if it has nothing to do."""
        serving = self._serving
        return serving.stuck_for if serving is not None else 0.0

    def resume(self) -> None:
        """The process was stopped for a while, so the batch is not stuck."""
        serving = self._serving
        if serving is not None:
            serving.resume()

    def leases(self) -> list[Lease]:
        """The leases to keep."""
        serving = self._serving
        return serving.leases() if serving is not None else []

    def evict(self, lost: Callable[[Lease], bool]) -> None:
        """Drop the jobs that were cancelled or whose lease is lost."""
        serving = self._serving
        if serving is not None:
            serving.evict(lost)

    def report(self) -> ServedModel:
        """What the fleet may know about this model here."""
        state, serving, loaded = self._state, self._serving, self._loaded
        if serving is None or loaded is None:
            return state
        return replace(
            state,
            running=serving.running,
            memory_mb=loaded.memory_mb,
            healthy_at=serving.healthy_at or loaded.healthy_at,
            activity=serving.activity(),
        )

    @property
    def device(self) -> str | None:
        """Where the model runs, once it is loaded."""
        loaded = self._loaded
        return loaded.engine.device if loaded is not None else None

    @property
    def draining(self) -> bool:
        return self._stopping.is_set()

    def drain(self, deadline: float) -> None:
        """Claim no more, and hand back what still runs at `deadline` (monotonic seconds)."""
        with self._lock:
            self._deadline = min(self._deadline, deadline)
            self._stopping.set()
            if self._serving is not None:
                self._serving.drain(self._deadline)
        self._let_early_go()
        self._become(ModelState.DRAINING)

    def join(self) -> None:
        """Wait until all rows are committed or handed back; call `drain` first."""
        self._main.join()

    def _run(self) -> None:
        while (loaded := self._loader.load()) is not None:
            self._measured(self.model.name, loaded.measured)
            try:
                self._serve(loaded)
            except ModelUnavailable as error:  # it died; another may live
                log.error("engine.died", model=self.model.name, reason=str(error))
                self._loader.died(str(error))
            finally:
                self._end_serving()
                loaded.engine.close()
        memory.give_back()
        self.gone = True
        log.info("model.gone", model=self.model.name)
        self._changed()

    def _serve(self, loaded: Loaded) -> None:
        """Run jobs on this engine until drained.

        Raises:
            ModelUnavailable: the engine has died, and all jobs are handed back.
        """
        engine = loaded.engine
        serving = Serving(self.model, engine, self._place)
        with self._lock:
            state = ModelState.READY
            if self._stopping.is_set():
                state = ModelState.DRAINING
                serving.drain(self._deadline)
            self._loaded, self._serving = loaded, serving
            self._state = ServedModel(state, engine.name, slots=engine.slots, version=self.version)
        self._let_early_go()
        log.info("model.ready", model=self.model.name, engine=engine.name)
        self._changed()
        serving.run()

    def _end_serving(self) -> None:
        with self._lock:
            self._loaded = self._serving = None

    def _let_early_go(self) -> None:
        with self._lock:
            early, self._early = self._early, []
        for let_go in early:
            let_go()

    def _become(self, state: ModelState, reason: str | None = None) -> None:
        """Take on a state; a reason stays until the model is ready. Draining is the last one."""
        with self._lock:
            before = self._state
            if self._stopping.is_set():
                state = ModelState.DRAINING
            self._state = replace(before, state=state, reason=reason or before.reason)
        if self._state != before:
            self._changed()
