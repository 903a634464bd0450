"""The whole platform, started as a user starts it."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import redis
import yaml

T = TypeVar("T")

SIMULATED = {"name": "simulated", "type": "simulated", "max_batch_size": 16}
SLOW = {**SIMULATED, "name": "slow", "simulated": {"step_ms": 20}}


def until(condition: Callable[[], T], timeout: float = 60.0) -> T:
    """The first true value of `condition`; fails after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stack:
    """One `nexus up` on a data folder of its own."""

    def __init__(self, folder: Path, models: list[dict[str, Any]], models_dir: Path) -> None:
        self.data_dir = folder / "data"
        self._log = folder / "up.log"
        models_file = folder / "models.yaml"
        models_file.write_text(yaml.safe_dump({"models": models}))
        self.models = [model["name"] for model in models]
        self.port, self.redis_port = free_port(), free_port()
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("NEXUS_")},
            "NEXUS_DATA_DIR": str(self.data_dir),
            "NEXUS_MODELS_FILE": str(models_file),
            "NEXUS_MODEL_ROOT": str(models_dir),
            "NEXUS_SERVER__PORT": str(self.port),
            "NEXUS_QUEUE__EMBEDDED_PORT": str(self.redis_port),
            "NEXUS_JOBS__LEASE_SECONDS": "3",
        }
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=90)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, workers: int = 1) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.nexus, "up", "--workers", str(workers)],
                env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        until(self._ready, timeout=90)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=60)

    def kill(self) -> None:
        """SIGKILL to the supervisor and to every worker, and wait until the API is gone too."""
        assert self._process is not None
        for pid in self.worker_pids():
            os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait(timeout=60)
        until(self._nothing_listens)

    @property
    def pid(self) -> int:
        """Of `nexus up`, from which all other processes descend."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def nexus(self) -> list[str]:
        return [sys.executable, "-m", "nexus_jobs.cli"]

    def run(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A client command against this stack."""
        return subprocess.run(
            [*self.nexus, *arguments], env={**self.env, "NEXUS_URL": self.url},
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.data_dir / "nexus.db", timeout=30) as connection:
            rows = connection.execute(query).fetchall()
        connection.close()
        return rows

    def worker_pids(self) -> list[int]:
        return [pid for (pid,) in self.sql("SELECT pid FROM workers ORDER BY seen_at DESC")]

    def valkey_pid(self) -> int:
        with redis.Redis(port=self.redis_port) as client:
            return int(client.info("server")["process_id"])

    def generate(self, **body: Any) -> dict[str, Any]:
        answer = self.http.post("/api/v1/generate", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
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
