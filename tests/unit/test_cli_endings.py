"""How `nexus` ends when something outside of it goes wrong."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nexus_jobs.chaos.ground import ground
from nexus_jobs.errors import ConfigError
from tests.unit.scripted_server import Script


def test_a_folder_that_cannot_be_used_is_a_sentence(
    nexus: Any, tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert nexus("models", "pull", "smollm2-135m", "--data-dir", str(file / "data")) == 1
    assert capsys.readouterr().err == f"Error: {file}/data/models: Not a directory\n"


def test_output_that_cannot_be_written_is_a_sentence(
    server: Script, nexus: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    server.on("GET routes", {"data": []})
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert nexus("routes", "list") == 1
    assert capsys.readouterr().err == "Error: cannot write: No space left on device\n"


def test_ctrl_c_is_quiet_while_the_commands_are_loaded(
    nexus: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    class Interrupted:
        def __getattr__(self, _name: str) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "nexus_jobs.cli.commands", Interrupted())
    assert nexus("routes", "list") == 130
    assert capsys.readouterr().err == ""


def test_nothing_is_loaded_before_ctrl_c_is_heard() -> None:
    script = "import sys; had = {*sys.modules}; import nexus_jobs.cli; print({*sys.modules} - had)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert eval(ran.stdout) == {"nexus_jobs", "nexus_jobs.cli"}


@pytest.mark.parametrize(
    ("database", "reason"),
    [
        ("mysql", "no URL of a database"),
        ("sqlite:///mine.db", "write --database sqlite"),
        ("postgresql://u:s3cret@127.0.0.1:1/d", "Connection refused"),
    ],
)
def test_a_server_that_cannot_be_had_for_chaos_is_a_sentence(database: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refused, ground(database):
        pass
    assert "s3cret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_an_error_has_a_colour_where_one_is_wanted(
    nexus: Any, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert nexus("routes", "list", "--url", "foo") == 1
    line = os.read(ours, 1000)
    os.close(ours)
    assert b"Error: 'foo'" in line
    assert (b"\x1b[" in line) is coloured


@pytest.mark.parametrize("no_colour", ["", "1"])
def test_a_log_is_for_people_without_colours_too(no_colour: str) -> None:
    script = (
        "import structlog; from nexus_jobs.telemetry import configure_logging;"
        "configure_logging(); structlog.get_logger().info('started', jobs=3)"
    )
    environment = {**os.environ, "TERM": "xterm", "FORCE_COLOR": "1", "NO_COLOR": no_colour}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert "started" in ran.stderr
    assert "{" not in ran.stderr
    assert ("\x1b[" in ran.stderr) is not bool(no_colour)
