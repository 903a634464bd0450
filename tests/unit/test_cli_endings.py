"""How `nexus` ends when something outside of it goes wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize(
    ("database", "reason"),
    [
        ("mysql", "no URL of a database"),
        ("sqlite:///mine.db", "write --database sqlite"),
        ("postgresql://u:s3cret@127.0.0.1:1/d", "Connection refused"),
    ],
)
def test_a_server_that_cannot_be_had_for_chaos_is_a_sentence(
    nexus: Any, capsys: Any, database: str, reason: str
) -> None:
    assert nexus("chaos", "--database", database) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: ")
    assert reason in line
    assert "s3cret" not in line
