"""The ticket task, and the life of a device tied to the life of its Celery worker."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, NoReturn

import structlog
from celery import Celery, Task, signals
from celery.worker.consumer import Consumer

from nexus_jobs.adapters.engines.build import build_engine
from nexus_jobs.adapters.ticket_message import TICKET_TASK, model_of, queue_of
from nexus_jobs.bootstrap import Platform, connect
from nexus_jobs.config import Settings
from nexus_jobs.engine import Engine
from nexus_jobs.errors import ConfigError, NexusError
from nexus_jobs.models import ModelConfig
from nexus_jobs.telemetry import configure_logging, serve_metrics
from workers.consumer_watch import ConsumerWatch
from workers.device import Device
from workers.subscription import Subscription
from workers.threads import vital_thread
from workers.tickets import Tickets

log = structlog.get_logger(__name__)

LAST_SECONDS = 3.0
"""After the grace period: time to hand jobs back. Whatever still holds a stopping worker up then,
such as Redis or a database that does not answer, is left behind.
"""
WAITING_TICKETS = 2
"""Tickets of one model that may wait in a worker."""
FEWEST_QUEUES = 3
"""A worker that is told what to serve has places for the tickets of so many models, though there
are fewer when it starts. Not for many more: it would take tickets that others could have. If more
models come to it later, their tickets share the places.
"""


def register(app: Celery, settings: Settings) -> None:
    """Give the app its one task and start a device when a worker starts."""
    life = _Life(settings)

    def generate(model: str, count: int) -> None:
        raise NotImplementedError("a worker's strategy for tickets stands in for this")

    app.task(generate, name=TICKET_TASK, ignore_result=True, Strategy=life.strategy)
    # that somebody listens here keeps Celery from setting up logging of its own
    signals.setup_logging.connect(lambda **_: None, weak=False)
    signals.celeryd_init.connect(_or_exit(life.configure), weak=False)
    signals.worker_init.connect(_or_exit(life.start), weak=False)
    signals.worker_ready.connect(life.watch_consumer, weak=False)
    signals.worker_shutting_down.connect(life.drain, weak=False)
    signals.worker_shutdown.connect(life.stop, weak=False)


def _or_exit(begin: Callable[..., None]) -> Callable[..., None]:
    """Celery ignores the exceptions of signal handlers, but not this one.

    A worker that could not start must end, so that whoever supervises it sees it and tries again.
    """

    def handler(**keywords: Any) -> None:
        try:
            begin(**keywords)
        except NexusError as error:
            log.error("worker.failed", reason=str(error))
            raise SystemExit(1) from error

    return handler


class _Life:
    """What happens when; Celery calls these with more keywords than we need."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._platform: Platform | None = None
        self._device: Device | None = None
        self._watch: ConsumerWatch | None = None
        self._managed = False
        self._places = WAITING_TICKETS
        self._tickets: Tickets | None = None
        self._subscription: Subscription | None = None

    def configure(self, conf: Any, options: dict[str, Any], **_: Any) -> None:
        """Before the worker reads its settings: logging, and how many tickets it takes in."""
        configure_logging()
        self._platform = connect(self._settings, answers=False)
        queues = len(options.get("queues") or ())
        self._managed = not queues
        if self._managed:
            registered = len(self._platform.store.models())
            queues = self._settings.worker.max_models or max(registered, FEWEST_QUEUES)
        self._places = WAITING_TICKETS * queues
        spare = queues > 1  # for the tickets that may not stay
        conf.worker_concurrency = self._places + spare  # Celery's prefetch count

    def start(self, sender: Any, **_: Any) -> None:
        """When the worker knows its queues: load their models, or wait to be told of some."""
        assert self._platform is not None  # noqa: S101 - Celery configures before it starts
        platform = self._platform
        queues = sender.app.amqp.queues
        if self._managed:
            queues.deselect(list(queues.consume_from))  # Celery's own default one
        self._device = Device(
            platform,
            name=sender.hostname,
            fixed=None if self._managed else _served(queues.consume_from, platform.store.models()),
            build_engine=self._build_engine,
            subscribe=self._subscribe,
        )
        self._tickets = Tickets(
            self._device.announce,
            of_a_model=WAITING_TICKETS,
            of_all=self._places,
            patience=self._settings.worker.poll_seconds,
        )
        serve_metrics(self._settings.metrics.prometheus_port)
        self._device.start()

    def watch_consumer(self, sender: Consumer, **_: Any) -> None:
        """When the worker takes its first tickets: see to it that it goes on to take them."""
        assert self._platform is not None  # noqa: S101 - Celery configures before it starts
        assert self._device is not None and self._tickets is not None  # noqa: S101, PT018
        self._subscription = Subscription(sender)
        self._watch = ConsumerWatch(
            self._device.ready,
            queue=self._platform.tickets,
            here=self._tickets,
            restart=self._subscription.start_anew,
            clock=time.monotonic,
        )
        vital_thread("consumer watch", self._watch.run).start()

    def strategy(self, task: Task, app: Celery, consumer: Consumer) -> Callable[..., None]:  # noqa: ARG002
        """When the consumer begins: how it handles a ticket."""
        assert self._tickets is not None  # noqa: S101 - it begins after `start`
        return self._tickets.strategy(consumer)

    def _subscribe(self, models: Collection[str]) -> None:
        if self._subscription is not None:
            self._subscription.follow(models)

    def _build_engine(self, model: ModelConfig) -> Engine:
        settings = self._settings
        if model.device == "auto" and model.type in ("auto", "huggingface"):
            model = model.model_copy(update={"device": settings.worker.device})
        return build_engine(model, models_dir=settings.models_dir, threads=settings.worker.threads)

    def drain(self, **_: Any) -> None:
        """On SIGTERM: claim no more and let the tickets go.

        On a thread of its own, since a signal handler must not wait for locks.
        """
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        if self._device is not None:
            self._device.drain()
        time.sleep(self._settings.worker.grace_seconds + LAST_SECONDS)
        _leave()

    def stop(self, **_: Any) -> None:
        """When Celery has let its threads go: see the running rows to their end."""
        if self._device is not None:
            self._device.drain()
            self._device.join()
        if self._platform is not None:
            self._platform.close()


def _leave() -> NoReturn:
    """End this process and its engines' although something holds it up."""
    log.warning("stop.overdue")
    for engine in multiprocessing.active_children():
        engine.kill()
    os._exit(os.EX_TEMPFAIL)


def _served(queues: Iterable[str], models: list[ModelConfig]) -> list[str]:
    """The models of these queues.

    Raises:
        ConfigError: there is no such model.
    """
    known = [model.name for model in models]
    names = [model_of(queue) for queue in queues]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"queue {queue_of(name)!r} is of no registered model; "
                f"there are: {', '.join(known) or 'none'}"
            )
    return names
