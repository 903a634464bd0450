"""`nexus up`, with a single child in place of the platform's processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import free_port

SCRIPT = """
import sys
from nexus_jobs import cli
from nexus_jobs.cli import up
from nexus_jobs.supervisor import Child
up.roles = lambda *_: [Child(name="child", command=["sh", "-c", "echo up; exec sleep 60"])]
cli.main()
"""

Up = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Up]:
    """Starts `nexus up` on a data folder, its output in a pipe."""
    models = tmp_path / "models.yaml"
    models.write_text("models: []\n")
    monkeypatch.setenv("NEXUS_QUEUE__REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("NEXUS_MODELS_FILE", str(models))
    started = []

    def start(**keywords: Any) -> subprocess.Popen[str]:
        paths = ["--data-dir", str(tmp_path), "--port", str(free_port())]
        command = [sys.executable, "-c", SCRIPT, "up", *paths]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **keywords))
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGHUP])
def test_a_reader_that_goes_away_costs_the_output_and_nothing_else(
    up: Up, tmp_path: Path, asked: signal.Signals
) -> None:
    process = up()
    assert "up" in process.stdout.readline()
    process.stdout.close()
    process.send_signal(asked)
    assert process.wait(30) == 0
    assert (tmp_path / "nexus.lock").read_text() == ""
