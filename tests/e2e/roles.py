"""The roles of a platform as single processes, each started and stopped by itself."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nexus_jobs.cli.up import valkey
from nexus_jobs.config import Settings
from tests.e2e.stack import Stack, free_port, until


class Roles(Stack):
    """Processes on one data folder; no supervisor starts again what ends."""

    def __init__(self, folder: Path, models: list[dict[str, Any]], models_dir: Path) -> None:
        super().__init__(folder, models, models_dir)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, Sequence[str]] = {}
        self.data_dir.mkdir()
        settings = Settings(data_dir=self.data_dir, queue={"embedded_port": self.redis_port})
        self._commands["valkey"] = valkey(settings).command
        self.begin("valkey")
        until(self.valkey_pid)
        assert self.run("migrate").returncode == 0

    def add(self, name: str, *arguments: str) -> None:
        """Start a role under a name, as in `add("w1", "worker", "--name", "w1")`."""
        self.add_command(name, [*self.nexus, *arguments])

    def add_command(self, name: str, command: Sequence[str]) -> None:
        """Start something else under a name."""
        self._commands[name] = command
        self.begin(name)

    def add_api(self, name: str) -> int:
        """An API process; its port, when it answers."""
        port = free_port()
        self.add(name, "api", "--port", str(port))
        until(lambda: answers(port), timeout=30)
        return port

    def add_worker(self, name: str) -> None:
        """A worker of all models, when they are ready."""
        models = [word for model in self.models for word in ("--model", model)]
        self.add(name, "worker", "--name", name, *models)
        self.await_models(name)

    def await_models(self, name: str, earlier: int = 0) -> None:
        """Wait until a worker that has had `earlier` lives is ready."""
        lines = (1 + earlier) * len(self.models)
        until(lambda: self.log_of(name).count("model.ready") >= lines)

    def begin(self, name: str) -> None:
        """Start a role, or start it again."""
        with self.log_path(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self._commands[name], env=self.env, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def send(self, name: str, number: signal.Signals) -> None:
        self._processes[name].send_signal(number)

    def pid_of(self, name: str) -> int:
        return self._processes[name].pid

    def interrupt(self, name: str) -> None:
        """What Ctrl-C in a terminal does: SIGINT to the role and to all that it has started."""
        os.killpg(self._processes[name].pid, signal.SIGINT)

    def ended(self, name: str, timeout: float = 60) -> int:
        """The exit status."""
        return self._processes[name].wait(timeout)

    def terminate(self, name: str) -> float:
        """SIGTERM; the seconds until the role has ended well."""
        started = time.monotonic()
        self.send(name, signal.SIGTERM)
        assert self.ended(name) == 0, self.log_of(name)
        return time.monotonic() - started

    def end_all(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def log_path(self, name: str) -> Path:
        return self.data_dir / f"{name}.log"

    def log_of(self, name: str) -> str:
        return self.log_path(name).read_text(errors="replace")


def answers(port: int) -> bool:
    """Whether it does so at once: a stop of the API leaves no time to wait for long."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
