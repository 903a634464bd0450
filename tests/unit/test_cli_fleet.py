"""What a person sees of models, workers and the scheduler, against a server that plays a script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nexus_jobs.cli import roles
from tests.unit.scripted_server import Script

MODEL = {"name": "own", "version": 2, "state": "registered", "wanted": "auto", "reason": None}


def test_a_model_is_registered_with_what_is_given(server: Script, nexus: Any, capsys: Any) -> None:
    unchecked = {"unchecked": "model own has not been pulled"}
    server.on("POST models", (201, MODEL | unchecked))
    assert nexus("models", "add", "own", "--type", "onnx", "--max-batch-size", "3") == 0
    body = json.loads(server.requests[0][1])
    assert body == {"name": "own", "type": "onnx", "max_batch_size": 3}
    said = capsys.readouterr()
    assert said.out == "own: version 2, registered\n"
    assert "has not been pulled" in said.err


def test_a_model_is_removed(server: Script, nexus: Any) -> None:
    server.on("DELETE models/own", (204, ""))
    assert nexus("models", "remove", "own") == 0
    assert server.requests == [("DELETE models/own", b"")]


@pytest.mark.parametrize("command", ["load", "unload", "auto"])
def test_a_model_is_told_what_is_wanted_of_it(
    server: Script, nexus: Any, capsys: Any, command: str
) -> None:
    server.on(f"POST models/own/{command}", (202, MODEL))
    assert nexus("models", command, "own") == 0
    assert capsys.readouterr().out == "own: registered, wanted auto\n"


def test_a_load_that_fails_says_why(server: Script, nexus: Any, capsys: Any) -> None:
    server.on("POST models/own/load", (202, MODEL | {"state": "failed", "reason": "no file"}))
    assert nexus("models", "load", "own", "--wait", "5") == 1
    assert capsys.readouterr().out == "own: failed, wanted auto: no file\n"


def test_a_model_is_shown(server: Script, nexus: Any, capsys: Any) -> None:
    server.on("GET models/own", MODEL)
    assert nexus("models", "show", "own") == 0
    assert json.loads(capsys.readouterr().out) == MODEL


def test_models_that_only_the_server_knows_are_listed(
    server: Script, nexus: Any, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models: [{name: listed, type: simulated}]")
    monkeypatch.setenv("NEXUS_MODELS_FILE", str(file))
    listed = {"name": "listed", "state": "ready", "engine": "simulated", "type": "simulated"}
    server.on("GET models", {"data": [listed, listed | {"name": "own", "state": "loading"}]})
    assert nexus("models", "list", "--data-dir", str(tmp_path)) == 0
    assert [line.split("\t")[:3] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["listed", "ready", "simulated"],
        ["own", "loading", "simulated"],
    ]


def test_workers_are_listed_with_each_model_they_have(
    server: Script, nexus: Any, capsys: Any
) -> None:
    placed = {
        "model": "own",
        "state": "ready",
        "engine": "onnx int8",
        "running": 3,
        "slots": 8,
        "tokens_per_second": 41.6,
        "step_ms": 2.25,
        "memory_mb": 516.91796875,
        "reason": None,
    }
    busy = {"id": "w1", "host": "h", "device": "cpu", "draining": False, "seen_at": "now"}
    idle = busy | {"id": "w2", "draining": True, "models": []}
    server.on("GET workers", {"data": [busy | {"models": [placed]}, idle]})
    assert nexus("workers") == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "w1\th\tcpu\tnow\town\tready\tonnx int8\t3/8\t42\t2.2\t517\t-",
        "w2 (draining)\th\tcpu\tnow" + "\t-" * 8,
    ]


def test_the_scheduler_explains_itself(server: Script, nexus: Any, capsys: Any) -> None:
    decision = {"at": "then", "action": "load", "model": "own", "worker": "w1", "reason": "backlog"}
    schedule = {
        "data": [{"worker": "w1", "model": "own", "since": "then"}],
        "decisions": [decision],
        "recommendations": [{"model": "own", "replicas": 2, "reason": "too slow"}],
    }
    server.on("GET assignments", schedule)
    assert nexus("scheduler", "explain") == 0
    out = capsys.readouterr().out
    assert "w1\town\tthen" in out
    assert "then\tload\town\tw1\tbacklog" in out
    assert "own\t2\ttoo slow" in out


def test_scheduler_without_more_is_the_scheduler(
    nexus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    monkeypatch.setattr(roles, "scheduler", lambda: ran.append(True))
    assert nexus("scheduler") == 0
    assert ran == [True]
