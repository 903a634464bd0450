"""The single roles of the platform, one process each; `nexus up` starts them all.

What they run lies on floors above this one, so it is named by module path and never imported here.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
from functools import partial
from typing import Annotated, Any, Final, NoReturn

import typer

from nexus_jobs.cli.options import Host, Port
from nexus_jobs.cli.preflight import check_ports
from nexus_jobs.config import load_settings
from nexus_jobs.supervisor import die_with_parent

STOP_SECONDS: Final = 5
"""How long requests that are under way may delay a stop of the API."""

_CONNECTIONS: Final = 1024
"""Open connections that an API process holds, idle ones included."""


def api(host: Host = None, port: Port = None) -> None:
    """Serve the HTTP interface."""
    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    given = {"host": host, "port": port}
    settings = load_settings(server={k: v for k, v in given.items() if v is not None}).server
    # the server would share a port that is taken, and get half of somebody else's requests;
    # patient, since one that was killed may leave its processes behind for a moment
    check_ports({"--port": (settings.host, settings.port)}, patient=True)
    os.register_at_fork(after_in_child=_obey_parent)
    Granian(
        "api.wsgi:create",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.WSGI,
        workers=settings.workers,
        blocking_threads=settings.threads,
        backpressure=_CONNECTIONS,
        websockets=False,
        log_level=LogLevels.error,  # our own log says what matters of the rest
        workers_kill_timeout=STOP_SECONDS,
    ).serve(target_loader=partial(load_application, turns=multiprocessing.Value("i")))


def load_application(target: str, turns: Any) -> Any:
    """Make the WSGI application in a process that granian has forked for it.

    `turns` is a number that these processes share, so that each keeps to a core of its own.

    Such a process is tied to its parent: an orphan would go on answering on the same port.
    """
    die_with_parent(os.getppid(), signal.SIGKILL)
    if load_settings().server.one_core:
        with turns:
            turn, turns.value = turns.value, turns.value + 1
        _stay_on_one_core(turn)
    module, factory = target.split(":")
    return getattr(importlib.import_module(module), factory)()


def _obey_parent() -> None:
    """Let a process that granian has just forked be stopped by SIGTERM from its parent alone.

    It has inherited a handler that does nothing there, and gets its own when the application is
    loaded. A terminal's Ctrl-C reaches it as well as its parent, and two signals at once make it
    hang (seen in granian 2.8.7).
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def _stay_on_one_core(turn: int) -> None:
    """Keep this process, and the threads it starts from now on, on one of the cores it may use."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[turn % len(cores)]})


def worker(
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="One to serve; repeatable.")
    ] = None,
    name: Annotated[str, typer.Option(help="Must differ between workers of one machine.")] = "w1",
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda:N, for models that name none themselves.")
    ] = None,
) -> None:
    """Run jobs: a Celery worker on the queues of its models; the scheduler tells it which if none
    is given."""
    from nexus_jobs.adapters.ticket_message import queue_of

    queues = [f"--queues={','.join(map(queue_of, model))}"] if model else []
    if device is not None:
        os.environ["NEXUS_WORKER__DEVICE"] = device
    load_settings()  # so that wrong ones are refused here
    features = ["--pool=threads", "--without-gossip", "--without-mingle"]
    _celery("worker", f"--hostname={name}@%h", *features, *queues)


def scheduler() -> None:
    """Take back lapsed leases, expire overdue jobs, and ring for work that has no ticket."""
    importlib.import_module("workers.scheduler").main(load_settings())


def migrate() -> None:
    """Bring the database up to date, and its list of models in line with the models file."""
    from nexus_jobs import bootstrap

    bootstrap.prepare(load_settings())


def flower(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 5555,
) -> None:
    """Serve Flower, the monitor of Celery workers and tasks.

    Its pages are open to who reaches the port; its HTTP API, which can stop workers, asks for a
    login unless FLOWER_UNAUTHENTICATED_API is true.
    """
    load_settings()  # so that wrong ones are refused here
    check_ports({"--port": (host, port)}, patient=False)
    _celery("flower", f"--address={host}", f"--port={port}")


def _celery(*arguments: str) -> NoReturn:
    """Become the Celery program, so that signals reach it and nothing else."""
    # Celery advises against root because a pickled message could run code; we accept JSON only.
    advice = "ignore:You're running the worker with superuser"
    program = [sys.executable, "-W", advice, "-m", "celery", "--quiet", "--app=workers.app"]
    sys.stdout.flush()
    os.execv(program[0], [*program, *arguments])  # noqa: S606
