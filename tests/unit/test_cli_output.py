"""How lists look, in a pipe and in a terminal."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from nexus_jobs.cli import output
from tests.unit.scripted_server import Script


def test_jobs_are_listed_in_columns(server: Script, nexus: Any, capsys: Any) -> None:
    job = {"id": "j1", "model": "tiny", "state": "running", "attempt": 1, "cached": "no"}
    times = {"submitted_at": "then", "finished_at": None}
    dead = job | times | {"id": "j2", "state": "dead", "error": {"code": "engine_error"}}
    server.on("GET jobs", {"data": [job | times | {"error": None}, dead]})
    assert nexus("jobs", "list") == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "j1\ttiny\trunning\t1\tno\t-\tthen\t-",
        "j2\ttiny\tdead\t1\tno\tengine_error\tthen\t-",
    ]


@pytest.mark.parametrize("width", [80, 200])
def test_no_terminal_is_too_narrow_for_an_id(
    server: Script, nexus: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    terminal = Console(force_terminal=True, color_system=None, width=width)
    monkeypatch.setattr(output, "console", terminal)
    job = {"id": str(UUID(int=1)), "model": "a-long-name-of-a-model"}
    details = {"state": "succeeded", "attempt": 1, "cached": "no", "error": None}
    times = {"submitted_at": "2026-11-29T19:20:06.123456Z", "finished_at": None}
    server.on("GET jobs", {"data": [job | details | times]})
    assert nexus("jobs", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    for shown in (job["id"], job["model"], times["submitted_at"]):
        assert any(shown in line for line in lines)
