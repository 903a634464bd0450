"""The whole platform, with what tests ask of it."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import redis

from nexus_jobs.chaos import stack
from nexus_jobs.chaos.stack import NEXUS, free_port, until

__all__ = ["SIMULATED", "SLOW", "Stack", "free_port", "until"]

SIMULATED = {"name": "simulated", "type": "simulated", "max_batch_size": 16}
SLOW = {**SIMULATED, "name": "slow", "simulated": {"step_ms": 20}}


class Stack(stack.Stack):
    """One `nexus up` on a data folder of its own, on SQLite and with short leases."""

    def __init__(self, folder: Path, models: Sequence[Mapping[str, Any]], models_dir: Path) -> None:
        env = {"NEXUS_MODEL_ROOT": str(models_dir), "NEXUS_JOBS__LEASE_SECONDS": "3"}
        super().__init__(folder, models, env)

    @property
    def nexus(self) -> list[str]:
        return list(NEXUS)

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
