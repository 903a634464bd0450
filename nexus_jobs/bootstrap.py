"""The one place that builds adapters and plugs them into the services."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from nexus_jobs.adapters import model_files, schema
from nexus_jobs.adapters.celery_tickets import CeleryTickets
from nexus_jobs.adapters.engines.build import load_tokenizer
from nexus_jobs.adapters.memory_cache import MemoryCache
from nexus_jobs.adapters.memory_loads import MemoryLoads
from nexus_jobs.adapters.memory_queue import MemorySignals, MemoryTickets
from nexus_jobs.adapters.memory_store import MemoryStore
from nexus_jobs.adapters.redis_cache import RedisCache
from nexus_jobs.adapters.redis_link import RedisLink
from nexus_jobs.adapters.redis_loads import RedisLoads
from nexus_jobs.adapters.redis_signals import RedisSignals
from nexus_jobs.adapters.sql_store import SqlStore
from nexus_jobs.bulk_service import BulkService
from nexus_jobs.caching import StoredResults, TieredCache
from nexus_jobs.catalog import Catalog
from nexus_jobs.committing import Committer
from nexus_jobs.config import Settings
from nexus_jobs.engine import Tokenizer
from nexus_jobs.errors import ConfigError, QueueUnavailable, StoreUnavailable
from nexus_jobs.execution import Settlement
from nexus_jobs.exposition import Exposition
from nexus_jobs.fleet_view import FleetView
from nexus_jobs.intake import Intake
from nexus_jobs.models import ModelConfig, load_models
from nexus_jobs.ports import (
    BulkStore,
    FleetStore,
    JobStore,
    LiveLoads,
    ResultCache,
    RouteStore,
    ScheduleStore,
    Signals,
    TicketQueue,
)
from nexus_jobs.registry import Registry
from nexus_jobs.route import load_routes
from nexus_jobs.route_service import RouteService
from nexus_jobs.router import Router
from nexus_jobs.service import JobService
from nexus_jobs.standing import Standings
from nexus_jobs.waiting import EndedWatch


class Store(JobStore, BulkStore, FleetStore, ScheduleStore, RouteStore, Protocol):
    """One database answers all store ports."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Platform:
    """The adapters of one process. `probes` answer the reason why something is away, or None."""

    settings: Settings
    store: Store
    tickets: TicketQueue
    cache: TieredCache
    signals: Signals
    loads: LiveLoads
    probes: dict[str, Callable[[], str | None]]

    def close(self) -> None:
        """Close all connections."""
        self.signals.close()
        self.store.close()


@dataclass(frozen=True, slots=True)
class Services:
    """What the API calls."""

    settings: Settings
    jobs: JobService
    bulks: BulkService
    models: Registry
    routes: RouteService
    fleet: FleetStore
    schedule: ScheduleStore
    view: FleetView
    standings: Standings
    metrics: Exposition
    committer: Committer
    watch: EndedWatch
    platform: Platform

    def checks(self) -> dict[str, str | None]:
        """For each part the platform leans on: None if it answers, else the reason."""
        return {name: probe() for name, probe in self.platform.probes.items()}

    def close(self) -> None:
        """Finish what was submitted, then close all connections."""
        self.committer.close()
        self.platform.close()


def prepare(settings: Settings) -> None:
    """Bring the schema up to date and the registry in line with the models file.

    The file's routes are put; others stay.

    Raises:
        ConfigError: the file cannot be used, or gives a model the name of a route.
    """
    models = load_models(settings.models_file)
    routes = load_routes(settings.models_file, models)
    schema.upgrade(settings.database_url)
    store = SqlStore(settings.database_url, pool_size=1)
    try:
        taken = {route.name for route in store.routes()} & {model.name for model in models}
        if taken:
            raise ConfigError(
                f"{settings.models_file}: {', '.join(sorted(taken))}: there is a route of that "
                "name; give the model another, or remove the route first"
            )
        store.sync_models(models)
        for route in routes:
            store.put_route(route)
    finally:
        store.close()


def connect(settings: Settings, *, answers: bool = True) -> Platform:
    """The real adapters. Nothing is contacted before it is used.

    A process that `answers` requests keeps results in its own memory as well.
    """
    queue = results = RedisLink(settings.redis_url)
    if settings.cache_redis_url != settings.redis_url:
        results = RedisLink(settings.cache_redis_url)
    store = SqlStore(settings.database_url, settings.database.pool_size)
    return Platform(
        settings=settings,
        store=store,
        tickets=CeleryTickets(queue, ticket_jobs=settings.queue.ticket_jobs),
        cache=_cache(settings, store, results, answers=answers),
        signals=RedisSignals(queue),
        loads=RedisLoads(queue),
        probes={
            "database": partial(_database_trouble, store),
            "redis": partial(_redis_trouble, queue),
        },
    )


def connect_memory(models: Sequence[ModelConfig], settings: Settings | None = None) -> Platform:
    """Everything inside this process: for tests and for trying things out."""
    settings = settings or Settings()
    store = MemoryStore()
    store.sync_models(models)
    return Platform(
        settings=settings,
        store=store,
        tickets=MemoryTickets(),
        cache=_cache(settings, store, None, answers=True),
        signals=MemorySignals(),
        loads=MemoryLoads(),
        probes={"database": lambda: None, "redis": lambda: None},
    )


def build_services(settings: Settings) -> Services:
    """The API's services on the real adapters."""
    return services_on(connect(settings))


def build_memory_services(models: Sequence[ModelConfig]) -> Services:
    """The API's services with everything in memory."""
    return services_on(connect_memory(models))


def services_on(platform: Platform) -> Services:
    """The API's services on the adapters of `platform`."""
    settings, store = platform.settings, platform.store
    signals = platform.signals
    catalog = Catalog(store, store, settings.load_balancer)
    view = FleetView(store, platform.loads)
    router = Router(store=store, fleet=store, workers=view.workers, signals=signals)
    intake = Intake(
        settings=settings.jobs,
        catalog=catalog,
        router=router,
        tokenizer=_tokenizers(settings.models_dir),
    )
    committer = Committer(
        store=store,
        cache=platform.cache,
        tickets=platform.tickets,
        never_run=router.withdraw,
    )
    watch = EndedWatch(store, signals, limit=settings.server.max_waiting)
    return Services(
        settings=settings,
        jobs=JobService(
            intake=intake, committer=committer, store=store, signals=signals, watch=watch
        ),
        bulks=BulkService(
            settings=settings.jobs,
            intake=intake,
            committer=committer,
            store=store,
            signals=signals,
        ),
        models=Registry(
            fleet=store,
            jobs=store,
            routes=store,
            catalog=catalog,
            view=view,
            check=partial(model_files.check, models_dir=settings.models_dir),
            stopping=lambda: watch.closed,
            upstreams=settings.server.upstreams,
        ),
        routes=RouteService(store=store, catalog=catalog, router=router),
        fleet=store,
        schedule=store,
        view=view,
        standings=Standings(
            jobs=store,
            fleet=store,
            schedule=store,
            reports=view.workers,
            catalog=catalog,
            router=router,
        ),
        metrics=Exposition(store, view, settings.metrics.collection_interval),
        committer=committer,
        watch=watch,
        platform=platform,
    )


def settlement_on(platform: Platform) -> Settlement:
    """What a worker ends attempts with, on the adapters of `platform`."""
    return Settlement(
        store=platform.store,
        cache=platform.cache,
        signals=platform.signals,
        tickets=platform.tickets,
    )


def _cache(
    settings: Settings, store: JobStore, shared: RedisLink | None, *, answers: bool
) -> TieredCache:
    ttl = settings.cache.ttl_seconds
    if not ttl:
        return TieredCache([])
    levels: list[ResultCache] = []
    if answers and settings.cache.max_size_mb:
        levels.append(MemoryCache(max_bytes=settings.cache.max_size_mb << 20, ttl_seconds=ttl))
    if shared is not None:
        levels.append(RedisCache(shared, ttl_seconds=ttl))
    return TieredCache([*levels, StoredResults(store, ttl)])


def _tokenizers(models_dir: Path) -> Callable[[ModelConfig], Tokenizer | None]:
    """Loads each model's tokenizer once; one that is not here yet is looked for again."""
    loaded: dict[ModelConfig, Tokenizer] = {}

    def tokenizer(model: ModelConfig) -> Tokenizer | None:
        if model not in loaded:
            found = load_tokenizer(model, models_dir)
            if found is None:
                return None
            loaded[model] = found
        return loaded[model]

    return tokenizer


def _database_trouble(store: FleetStore) -> str | None:
    try:
        store.models()
    except StoreUnavailable as error:
        return str(error)
    return None


def _redis_trouble(link: RedisLink) -> str | None:
    try:
        with link as client:
            client.ping()
    except QueueUnavailable as error:
        return str(error)
    return None
