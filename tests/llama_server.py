"""llama.cpp's own server in a process: what people run who have an upstream.

python -m tests.llama_server GGUF PORT SLOTS [KEY]
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import httpx

from nexus_jobs.chaos.stack import free_port, until

CONTEXT = 512
"""Tokens of a slot."""


class LlamaServer:
    """Serves the default model in a `with` block; may be killed and started in it."""

    def __init__(self, gguf: Path, *, slots: int = 4, key: str = "") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._arguments = [str(gguf), str(self.port), str(slots), *([key] if key else [])]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.llama_server", *self._arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(self._answers)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def busy_slots(self) -> int:
        """Requests that it is generating for."""
        slots = httpx.get(f"http://127.0.0.1:{self.port}/slots").raise_for_status().json()
        return sum(slot["is_processing"] for slot in slots)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health").is_success
        except httpx.TransportError:
            return False


def main(gguf: str, port: str, slots: str, key: str = "") -> None:
    from xllamacpp import CommonParams, Server

    params = CommonParams()
    params.model.path = gguf
    params.port = int(port)
    params.n_parallel = int(slots)
    params.n_ctx = CONTEXT * int(slots)
    params.endpoint_slots = True
    params.cpuparams.n_threads = 2
    if key:
        params.api_keys = [key]
    server = Server(params)  # it serves as long as it is referred to
    threading.Event().wait()
    del server


if __name__ == "__main__":
    main(*sys.argv[1:])
