"""What a person sees of `nexus`, against a server that plays a script."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from nexus_jobs.cli import watching
from tests.unit.scripted_server import Script

BULK = {
    "id": "b1",
    "state": "running",
    "total": 3,
    "counts": {"queued": 2, "succeeded": 1},
    "rows_per_second": 2.0,
    "tokens_per_second": 40.0,
    "eta_seconds": 1.2,
}
DONE = BULK | {"state": "completed", "counts": {"succeeded": 3}, "eta_seconds": None}
FAILED = DONE | {"counts": {"succeeded": 1, "failed": 1, "dead": 1}}
AWAY = (503, {"code": "database_unavailable", "detail": "away", "errors": []})
CONFLICT = (409, {"code": "conflict", "detail": "it is no more what it was", "errors": []})


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_POLL_SECONDS", 0.01)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.csv"
    path.write_text("prompt\na\nb\nc\n")
    return path


def test_a_submitted_job_is_named(server: Script, nexus: Any, capsys: Any) -> None:
    server.on("POST jobs", {"id": "j1"})
    assert nexus("jobs", "submit", "tiny", "Hello", "--max-tokens", "5") == 0
    assert capsys.readouterr().out == "j1\n"
    body = json.loads(server.requests[0][1])
    assert body == {"model": "tiny", "prompt": "Hello", "max_tokens": 5}


def test_a_job_is_submitted_under_its_key(server: Script, nexus: Any) -> None:
    server.on("POST jobs", {"id": "j1"})
    assert nexus("jobs", "submit", "tiny", "Hello", "--idempotency-key", "k 1") == 0
    assert server.key == "k 1"


def test_waiting_for_a_job_prints_its_answer(server: Script, nexus: Any, capsys: Any) -> None:
    running = {"id": "j1", "state": "running", "result": None, "error": None}
    server.on("POST jobs", running)
    server.on("GET jobs/j1", running, running | {"state": "succeeded", "result": {"text": "Hi."}})
    assert nexus("jobs", "submit", "tiny", "Hello", "--wait") == 0
    assert capsys.readouterr().out == "Hi.\n"


def test_waiting_for_a_job_that_fails_says_why(server: Script, nexus: Any, capsys: Any) -> None:
    error = {"code": "x", "message": "too long for the model"}
    failed = {"id": "j1", "state": "failed", "result": None, "error": error}
    server.on("POST jobs", failed)
    assert nexus("jobs", "submit", "tiny", "Hello", "--wait") == 1
    assert "job j1 is failed: too long for the model" in capsys.readouterr().err


def test_a_refusal_is_a_sentence_and_no_traceback(server: Script, nexus: Any, capsys: Any) -> None:
    errors = [{"field": "model", "code": "unknown_model", "message": "did you mean 'tiny'?"}]
    server.on("POST jobs", (422, {"code": "unknown_model", "detail": "no", "errors": errors}))
    assert nexus("jobs", "submit", "tinny", "Hello") == 1
    assert capsys.readouterr().err == "Error: did you mean 'tiny'?\n"


def test_a_server_that_is_not_there_is_a_sentence_too(nexus: Any, capsys: Any) -> None:
    assert nexus("jobs", "list", "--url", "http://127.0.0.1:1") == 1
    assert "is `nexus up` running?" in capsys.readouterr().err


def test_a_watched_bulk_ends_with_its_answers_in_a_file(
    server: Script, nexus: Any, prompts: Path, capsys: Any
) -> None:
    server.on("GET models", {"data": [{"name": "tiny"}, {"name": "other"}]})
    server.on("POST bulk", BULK)
    server.on("GET bulk/b1", BULK, DONE)
    server.on("GET bulk/b1/output", "prompt,output\na,1\n")
    assert nexus("bulk", "submit", str(prompts), "--watch", "--priority", "3") == 0
    output = prompts.with_name("prompts.out.csv")
    assert output.read_text() == "prompt,output\na,1\n"
    out = capsys.readouterr().out
    assert "completed: 3 of 3 rows, 2.0 rows/s, 40 tokens/s" in out
    assert f"Output: {output}" in out
    form = dict(server.requests)["POST bulk"]
    assert b"prompt\na\nb\nc\n" in form
    assert b'name="model"\r\n\r\ntiny\r\n' in form
    assert b'name="priority"\r\n\r\n3\r\n' in form


def test_failed_rows_are_saved_first_and_then_the_exit_code_is_one(
    server: Script, nexus: Any, prompts: Path, tmp_path: Path, capsys: Any
) -> None:
    output = tmp_path / "answers.csv"
    server.on("POST bulk", BULK)
    server.on("GET bulk/b1", FAILED)
    server.on("GET bulk/b1/output", "all rows")
    submit = ("bulk", "submit", str(prompts), "--model", "tiny", "--watch")
    assert nexus(*submit, "--output", str(output)) == 1
    assert output.read_text() == "all rows"
    assert "2 of 3 rows failed" in capsys.readouterr().err


def test_a_watch_outlives_a_server_that_is_away(
    server: Script, nexus: Any, tmp_path: Path, capsys: Any
) -> None:
    server.on("GET bulk/b1", AWAY, AWAY, BULK, AWAY, DONE)
    server.on("GET bulk/b1/output", AWAY, "all rows")
    output = tmp_path / "answers.csv"
    assert nexus("bulk", "watch", "b1", "--output", str(output)) == 0
    assert output.read_text() == "all rows"
    assert capsys.readouterr().out.count("Trying again") == 2


def test_a_bulk_that_was_cancelled_ends_the_watch(
    server: Script, nexus: Any, tmp_path: Path, capsys: Any
) -> None:
    server.on("GET bulk/b1", BULK | {"state": "cancelled"})
    output = tmp_path / "answers.csv"
    assert nexus("bulk", "watch", "b1", "--output", str(output)) == 1
    assert not output.exists()
    assert "bulk b1 was cancelled" in capsys.readouterr().err


def test_answers_that_cannot_be_saved_are_said_to_be_kept(
    server: Script, nexus: Any, tmp_path: Path, capsys: Any
) -> None:
    server.on("GET bulk/b1", DONE)
    server.on("GET bulk/b1/output", "all rows")
    output = tmp_path / ("x" * 255)  # a name that is too long with the one of its draft
    assert nexus("bulk", "watch", "b1", "--output", str(output)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "File name too long" in line
    assert "nexus bulk output b1 --output FILE" in line


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--output", "x.csv"], "only with"),
        (["--watch", "--output", "no/such/folder/x.csv"], "there is no folder"),
        (["--watch", "--output", "/proc/x.csv"], "nothing can be written in /proc"),
    ],
)
def test_an_output_that_would_be_lost_is_refused_before_anything_is_sent(
    server: Script, nexus: Any, prompts: Path, capsys: Any, options: list[str], complaint: str
) -> None:
    assert nexus("bulk", "submit", str(prompts), *options) == 2
    assert complaint in capsys.readouterr().err
    assert server.requests == []


def test_a_column_that_is_not_there_is_asked_for_by_its_option(
    server: Script, nexus: Any, prompts: Path, capsys: Any
) -> None:
    message = "there is no column 'x'; name it in `prompt_column`"
    errors = [{"field": "prompt_column", "code": "missing_column", "message": message}]
    server.on("POST bulk", (422, {"code": "missing_column", "detail": "no", "errors": errors}))
    submit = ("bulk", "submit", str(prompts), "--model", "tiny", "--prompt-column", "x")
    assert nexus(*submit) == 1
    assert capsys.readouterr().err.endswith("name it in --prompt-column\n")


def test_a_file_that_is_not_there_is_refused(nexus: Any, capsys: Any) -> None:
    assert nexus("bulk", "submit", "nowhere.csv") == 2
    assert "does not exist" in capsys.readouterr().err


def test_named_jobs_are_cancelled(server: Script, nexus: Any, capsys: Any) -> None:
    server.on("DELETE jobs/j1", {})
    server.on("DELETE jobs/j2", CONFLICT)
    assert nexus("jobs", "cancel", "j1") == 0
    assert capsys.readouterr().out == "cancelled: 1\n"
    assert nexus("jobs", "cancel", "j1", "j2") == 1
    assert "it is no more what it was" in capsys.readouterr().err


def test_all_jobs_of_a_model_are_cancelled_those_that_wait_first(
    server: Script, nexus: Any, capsys: Any
) -> None:
    pages = [{"data": [{"id": f"j{n}"}], "next_cursor": None} for n in range(4)]
    server.on("GET jobs", *pages)
    for n in range(4):
        server.on(f"DELETE jobs/j{n}", CONFLICT if n == 1 else {})
    assert nexus("jobs", "cancel", "--model", "m") == 0
    assert capsys.readouterr().out == "cancelled: 3\n"
    asked = [(query["model"], query["state"], query["shadow"]) for query in server.queries[:4]]
    states = product(["queued", "running"], ["no", "yes"])
    assert asked == [("m", state, shadow) for state, shadow in states]


@pytest.mark.parametrize("arguments", [(), ("j1", "--model", "m"), ("--state", "dead")])
def test_cancelling_needs_to_know_which_jobs(server: Script, nexus: Any, arguments: Any) -> None:
    assert nexus("jobs", "cancel", *arguments) == 2
    assert server.requests == []


def test_a_named_job_is_retried_with_what_is_given(server: Script, nexus: Any, capsys: Any) -> None:
    server.on("POST jobs/j1/retry", (202, {"id": "j1"}))
    assert nexus("jobs", "retry", "j1", "--max-tokens", "5") == 0
    assert server.requests == [("POST jobs/j1/retry", b'{"max_tokens":5}')]
    assert capsys.readouterr().out == "queued again: 1\n"


def test_all_dead_jobs_are_retried_on_whatever_page_they_are(
    server: Script, nexus: Any, capsys: Any
) -> None:
    first = {"data": [{"id": "j1"}, {"id": "j2"}], "next_cursor": "j2"}
    server.on("GET jobs", first, {"data": [{"id": "j3"}], "next_cursor": None})
    server.on("POST jobs/j1/retry", (202, {}))
    server.on("POST jobs/j2/retry", CONFLICT)
    server.on("POST jobs/j3/retry", (202, {}))
    assert nexus("jobs", "retry", "--state", "dead") == 0
    assert capsys.readouterr().out == "queued again: 2\n"


@pytest.mark.parametrize("arguments", [(), ("j1", "--state", "dead"), ("--state", "queued")])
def test_a_retry_needs_to_know_which_jobs(server: Script, nexus: Any, arguments: Any) -> None:
    assert nexus("jobs", "retry", *arguments) == 2
    assert server.requests == []


def test_a_bulk_is_retried(server: Script, nexus: Any, capsys: Any) -> None:
    server.on("POST bulk/b1/retry", (202, BULK))
    assert nexus("bulk", "retry", "b1") == 0
    assert capsys.readouterr().out == "running\n"


ROUTE = {
    "name": "chat",
    "algorithm": "weighted",
    "targets": [{"model": "a", "weight": 2.0}],
    "models": [
        {"model": "a", "available": True, "breaker": "open", "outstanding": 3},
        {"model": "b", "available": False, "breaker": "closed", "outstanding": 0},
    ],
}


def test_routes_are_listed_a_line_for_each_model(nexus: Any, server: Script, capsys: Any) -> None:
    server.on("GET routes", {"data": [ROUTE]})
    assert nexus("routes", "list") == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split("\t") for line in lines] == [
        ["chat", "weighted", "a", "2.0", "yes", "open", "3"],
        ["chat", "weighted", "b", "fallback", "no", "closed", "0"],
    ]


def test_a_route_is_put_as_it_was_written(nexus: Any, server: Script) -> None:
    server.on("PUT routes/chat", ROUTE)
    options = ["--target", "a=2", "--target", "b", "--fallback", "c", "--shadow", "d=5"]
    assert nexus("routes", "set", "chat", *options, "--algorithm", "weighted") == 0
    ((_, body),) = server.requests
    assert json.loads(body) == {
        "targets": [{"model": "a", "weight": 2.0}, {"model": "b"}],
        "fallback": ["c"],
        "shadow": {"model": "d", "percent": 5.0},
        "algorithm": "weighted",
    }


def test_a_weight_that_is_no_number_is_refused_with_what_would_be_right(
    nexus: Any, server: Script, capsys: Any
) -> None:
    assert nexus("routes", "set", "chat", "--target", "a=much") == 2
    assert "a=2" in capsys.readouterr().err
    assert server.requests == []


def test_a_route_is_shown_and_removed(nexus: Any, server: Script, capsys: Any) -> None:
    server.on("GET routes/chat", ROUTE)
    server.on("DELETE routes/chat", ROUTE)
    assert nexus("routes", "show", "chat") == 0
    assert json.loads(capsys.readouterr().out) == ROUTE
    assert nexus("routes", "remove", "chat") == 0
    assert capsys.readouterr().out == "removed: chat\n"
