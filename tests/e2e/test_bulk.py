"""Files of prompts through the whole platform."""

import csv
import os
import signal
from pathlib import Path

import pytest
import redis

from tests.e2e.stack import SIMULATED, SLOW, until


def write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def upload(stack, path: Path, **fields: str) -> dict[str, object]:
    with path.open("rb") as file:
        answer = stack.http.post("/api/v1/bulk", files={"file": file}, data=fields)
    assert answer.status_code == 202, answer.text
    return answer.json()


def wait_for(stack, bulk_id: str, timeout: float = 90) -> dict[str, object]:
    url = f"/api/v1/bulk/{bulk_id}"
    until(lambda: stack.http.get(url).json()["state"] == "completed", timeout)
    return stack.http.get(url).json()


def output(stack, bulk_id: str) -> list[dict[str, str]]:
    text = stack.http.get(f"/api/v1/bulk/{bulk_id}/output").text
    return list(csv.DictReader(text.splitlines(keepends=True)))


@pytest.mark.model
def test_a_file_of_prompts_comes_back_answered_and_in_order(stack, tmp_path):
    questions = ["What is the capital of France?", "What is 2 + 2?", "Name an animal."] * 4
    rows = [
        {"id": f"q{i}", "question": text, "max_tokens": 8 + i, "note": 'a "quote",\nnew line'}
        for i, text in enumerate(questions)
    ]
    source = write_csv(tmp_path / "in.csv", rows)
    target = tmp_path / "out.csv"
    done = stack.run(
        "bulk", "submit", str(source), "--model", "smollm2-135m", "--prompt-column", "question",
        "--watch", "--output", str(target),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    answers = read_csv(target)
    assert [(a["id"], a["note"]) for a in answers] == [(r["id"], r["note"]) for r in rows]
    assert {a["state"] for a in answers} == {"succeeded"}
    assert "Paris" in answers[0]["output"]
    for row, answer in zip(rows, answers, strict=True):
        assert 0 < int(answer["completion_tokens"]) <= int(row["max_tokens"])


def test_a_wrong_row_fails_alone(stack, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text(
        "prompt,max_tokens,temperature\n"
        "first,4,\n"
        ",4,\n"
        "third,many,\n"
        "fourth,4,-1\n"
        "fifth,4,0,too,many\n"
        "sixth\n",
        encoding="utf-8",
    )
    bulk = upload(stack, source, model="simulated", cache="no")
    status = wait_for(stack, bulk["id"])
    assert (status["counts"]["succeeded"], status["counts"]["failed"]) == (2, 4)
    rows = output(stack, bulk["id"])
    assert [row["state"] for row in rows] == ["succeeded", *["failed"] * 4, "succeeded"]
    assert [row["error"].split(":")[0] for row in rows[1:5]] == [
        "empty_prompt", "invalid_value", "out_of_range", "too_many_cells",
    ]  # fmt: skip


def test_a_cancelled_bulk_runs_no_further(stack, tmp_path):
    rows = [{"prompt": f"row {i}", "max_tokens": 50, "ignore_eos": "true"} for i in range(200)]
    bulk = upload(stack, write_csv(tmp_path / "in.csv", rows), model="slow")
    url = f"/api/v1/bulk/{bulk['id']}"
    until(lambda: stack.http.get(url).json()["counts"]["running"])
    assert stack.http.delete(url).json()["state"] == "cancelled"
    counts = stack.http.get(url).json()["counts"]
    assert counts["queued"] == counts["running"] == 0
    assert counts["cancelled"] > 0


def test_a_killed_worker_costs_no_row_and_repeats_none(stack, tmp_path):
    rows = [{"prompt": f"row {i} of the file", "max_tokens": 20} for i in range(300)]
    rows = [row | {"ignore_eos": "true"} for row in rows]
    bulk = upload(stack, write_csv(tmp_path / "in.csv", rows), model="slow", cache="no")
    url = f"/api/v1/bulk/{bulk['id']}"
    until(lambda: stack.http.get(url).json()["counts"]["succeeded"] >= 20)
    os.kill(stack.worker_pids()[0], signal.SIGKILL)
    status = wait_for(stack, bulk["id"])
    assert status["counts"]["succeeded"] == 300
    assert_complete(stack, bulk["id"], 300)
    assert stack.sql("SELECT count(*) FROM jobs WHERE attempt > 1 AND state = 'succeeded'") != [
        (0,)
    ]


def test_everything_is_killed_half_way_and_goes_on_after_the_next_start(make_stack, tmp_path):
    stack = make_stack([SLOW])
    stack.start()
    rows = [
        {"prompt": f"row {i} of the file", "max_tokens": 20, "ignore_eos": "true"}
        for i in range(300)
    ]
    bulk = upload(stack, write_csv(tmp_path / "in.csv", rows), model="slow", cache="no")
    url = f"/api/v1/bulk/{bulk['id']}"
    until(lambda: stack.http.get(url).json()["counts"]["succeeded"] >= 20)
    stack.kill()
    stack.start()
    wait_for(stack, bulk["id"])
    assert_complete(stack, bulk["id"], 300)
    assert stack.stop() == 0


def test_an_emptied_redis_loses_no_job(make_stack, tmp_path):
    stack = make_stack([SIMULATED])
    stack.start(workers=2)
    rows = [{"prompt": f"row {i} of the file"} for i in range(3000)]
    bulk = upload(stack, write_csv(tmp_path / "in.csv", rows), model="simulated", cache="no")
    with redis.Redis(port=stack.redis_port) as client:
        client.flushall()
    wait_for(stack, bulk["id"])
    assert_complete(stack, bulk["id"], 3000)
    assert stack.stop() == 0


def assert_complete(stack, bulk_id: str, total: int) -> None:
    """Every row once, in order, with its own answer; one results row per job."""
    rows = output(stack, bulk_id)
    assert [row["prompt"] for row in rows] == [f"row {i} of the file" for i in range(total)]
    assert {row["state"] for row in rows} == {"succeeded"}
    assert all(row["output"].startswith(row["prompt"]) for row in rows)
    results = "SELECT count(*), count(DISTINCT job_id) FROM results JOIN jobs ON jobs.id = job_id"
    assert stack.sql(f"{results} WHERE bulk_id = '{bulk_id}'") == [(total, total)]


def test_tickets_flow_again_after_redis_was_killed(make_stack):
    stack = make_stack([SIMULATED])
    stack.start()
    os.kill(stack.valkey_pid(), signal.SIGKILL)
    during = stack.http.post("/api/v1/jobs", json={"model": "simulated", "prompt": "away"})
    assert during.status_code == 202
    job = stack.http.get(during.headers["Location"], params={"wait": 30}).json()
    assert job["state"] == "succeeded"
    with redis.Redis(port=stack.redis_port) as client:
        until(lambda: _answers(client))
        stack.generate(model="simulated", prompt="back again")
        until(lambda: client.llen("nexus.simulated") == 0)
    assert stack.stop() == 0


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
