"""The whole platform on a folder of its own, started as a user starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import psutil
import yaml

from nexus_jobs.supervisor import die_with_parent

T = TypeVar("T")

NEXUS: Final = (sys.executable, "-m", "nexus_jobs.cli")


def until(condition: Callable[[], T], timeout: float = 60.0) -> T:
    """The first true value of `condition`.

    Raises:
        TimeoutError: there was none for `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() >= end:
            raise TimeoutError("the condition did not come true in time")
        time.sleep(0.05)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Stack:
    """One `nexus up`; of the caller's own settings only `env` reaches it."""

    def __init__(
        self, folder: Path, models: Sequence[Mapping[str, Any]], env: Mapping[str, str]
    ) -> None:
        self.data_dir = folder / "data"
        self.models = [model["name"] for model in models]
        self.port, self.redis_port = free_port(), free_port()
        models_file = folder / "models.yaml"
        models_file.write_text(yaml.safe_dump({"models": [dict(model) for model in models]}))
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("NEXUS_")},
            "NEXUS_DATA_DIR": str(self.data_dir),
            "NEXUS_MODELS_FILE": str(models_file),
            "NEXUS_SERVER__PORT": str(self.port),
            "NEXUS_QUEUE__EMBEDDED_PORT": str(self.redis_port),
            **env,
        }
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=90)
        self._log = folder / "up.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, workers: int = 1, max_workers: int | None = None) -> None:
        """Return when every model is ready.

        Raises:
            TimeoutError, RuntimeError: it does not come up; the message of the latter is its log.
        """
        most = str(max_workers or workers)
        self._process = self.launch("up", "--workers", str(workers), "--max-workers", most)
        until(self._ready, timeout=90)

    def launch(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a `nexus` command with this stack's settings; it writes into the stack's log.

        It ends when the thread that called this ends, and a terminal's Ctrl-C does not reach it.
        `prefix` is a command that runs it elsewhere.
        """
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603
                [*prefix, *NEXUS, *arguments],
                env={**self.env, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        process = self._started
        family = self.family()
        for member in family:  # one that is stopped would not hear of it
            with contextlib.suppress(psutil.NoSuchProcess):
                member.resume()
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout=60)
        finally:
            process.kill()
            kill(family)

    def kill(self) -> None:
        """SIGKILL to every process at once, and wait until nothing listens any more."""
        family = self.family()
        self._started.kill()  # first, so that it restarts none of the others
        kill(family)
        self._started.wait(timeout=60)
        until(self._nothing_listens)

    @property
    def pid(self) -> int:
        """Of `nexus up`, from which all other processes descend."""
        return self._started.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def family(self, role: str | None = None) -> list[psutil.Process]:
        """All processes under `nexus up`, or those of a role: api, worker, scheduler, valkey."""
        try:
            members = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [member for member in members if role is None or _plays(member, role)]

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the stack has not been started")
        return self._process

    def _ready(self) -> bool:
        if not self.running:
            raise RuntimeError(self.log())
        try:
            models = self.http.get("/health/models").json()["data"]
        except (httpx.TransportError, ValueError, KeyError):
            return False
        return {m["name"] for m in models if m["state"] == "ready"} == set(self.models)

    def _nothing_listens(self) -> bool:
        for port in (self.port, self.redis_port):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return False
        return True


def kill(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL to those that are still the processes they were, and wait for their end."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def _plays(process: psutil.Process, role: str) -> bool:
    try:
        words = process.cmdline()
    except psutil.NoSuchProcess:
        return False
    return role in words or f"{role}-server" in process.name()
