"""`nexus up`, with a single child in place of the platform's processes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

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

    def start(stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        paths = ["--data-dir", str(tmp_path), "--port", str(free_port())]
        command = [sys.executable, "-c", SCRIPT, "up", *paths]
        started.append(subprocess.Popen(command, stdout=stdout, text=True))
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


@pytest.mark.parametrize(("term", "no_colour"), [("xterm", "1"), ("dumb", "")])
def test_a_terminal_that_wants_no_colours_gets_none(
    up: Up, monkeypatch: pytest.MonkeyPatch, term: str, no_colour: str
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("NO_COLOR", no_colour)
    ours, theirs = pty.openpty()
    up(stdout=theirs)
    os.close(theirs)
    with open(ours) as terminal:
        assert terminal.readline() == "child     | up\n"
