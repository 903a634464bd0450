"""Bulks over HTTP: a file in, its progress, and the file of answers out."""

from __future__ import annotations

import csv
import io
import json
import uuid
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

CSV = b"id,prompt\n1,one\n2,two\n3,three\n"


def upload(
    client: FlaskClient, content: bytes = CSV, filename: str = "people.csv", **fields: Any
) -> TestResponse:
    form = {"model": "simulated", "file": (io.BytesIO(content), filename), **fields}
    given = {name: value for name, value in form.items() if value is not None}
    return client.post("/api/v1/bulk", data=given, content_type="multipart/form-data")


def rows(answer: TestResponse) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(answer.data.decode("utf-8"), newline="")))


def expect(answer: TestResponse, code: str, field: str | None, words: str, status: int = 422):
    assert (answer.status_code, answer.json["code"]) == (status, code)
    assert answer.mimetype == "application/problem+json"
    assert words in answer.json["detail"]
    if field is not None:
        assert answer.json["errors"][0]["field"] == field


def test_an_upload_is_accepted_with_all_its_rows(client: FlaskClient):
    answer = upload(client)
    assert answer.status_code == 202
    bulk = answer.json
    assert (bulk["object"], bulk["total"], bulk["filename"]) == ("bulk", 3, "people.csv")
    assert (bulk["state"], bulk["counts"]["queued"]) == ("queued", 3)
    assert answer.headers["Location"].endswith(f"/api/v1/bulk/{bulk['id']}")
    assert client.get(answer.headers["Location"]).json["id"] == bulk["id"]


def test_the_output_holds_the_input_and_the_answers_in_order(client: FlaskClient, finish):
    location = upload(client).headers["Location"]
    finish()
    answer = client.get(f"{location}/output")
    assert answer.content_type == "text/csv; charset=utf-8"
    assert "filename=people.output.csv" in answer.headers["Content-Disposition"]
    assert [(row["id"], row["prompt"], row["output"], row["state"]) for row in rows(answer)] == [
        ("1", "one", "ONE", "succeeded"),
        ("2", "two", "TWO", "succeeded"),
        ("3", "three", "THREE", "succeeded"),
    ]
    assert client.get(location).json["state"] == "completed"


@pytest.mark.parametrize(
    "accept", ["application/x-ndjson", "application/jsonl", "text/csv;q=0.1, application/jsonl"]
)
def test_the_output_comes_as_json_lines_when_asked_for(client: FlaskClient, finish, accept: str):
    location = upload(client).headers["Location"]
    finish()
    answer = client.get(f"{location}/output", headers={"Accept": accept})
    assert answer.mimetype in accept
    assert "people.output.jsonl" in answer.headers["Content-Disposition"]
    lines = [json.loads(line) for line in answer.data.splitlines()]
    assert [line["output"] for line in lines] == ["ONE", "TWO", "THREE"]


@pytest.mark.parametrize("accept", ["*/*", "text/csv", "text/html", ""])
def test_the_output_is_csv_otherwise(client: FlaskClient, accept: str):
    location = upload(client).headers["Location"]
    answer = client.get(f"{location}/output", headers={"Accept": accept})
    assert answer.mimetype == "text/csv"


def test_the_output_is_streamed(client: FlaskClient):
    location = upload(client).headers["Location"]
    with client.get(f"{location}/output", buffered=False) as answer:
        assert answer.is_streamed
        assert answer.content_length is None


@pytest.mark.parametrize(
    ("filename", "plain", "encoded"),
    [
        ("Prämien 1.csv", "Pramien_1.output.csv", "Pr%C3%A4mien%201.output.csv"),
        ("数据.csv", "output.csv", "%E6%95%B0%E6%8D%AE.output.csv"),
        ("../../etc/passwd", "passwd.output.csv", "passwd.output.csv"),
        ("a'b;c.csv", "abc.output.csv", "a%27b%3Bc.output.csv"),
    ],
)
def test_a_download_keeps_any_filename_and_every_header_is_ascii(
    client: FlaskClient, filename: str, plain: str, encoded: str
):
    location = upload(client, filename=filename).headers["Location"]
    header = client.get(f"{location}/output").headers["Content-Disposition"]
    assert header.isascii()
    assert f"filename={plain}" in header
    assert f"filename*=UTF-8''{encoded}" in header


def test_defaults_of_the_form_and_overrides_of_a_row_reach_the_jobs(client: FlaskClient):
    content = b"question,priority\none,\ntwo,1\n"
    bulk = upload(client, content, prompt_column="question", priority="3", max_tokens="5").json
    jobs = client.get(f"/api/v1/jobs?bulk={bulk['id']}").json["data"]
    assert [job["priority"] for job in jobs] == [1, 3]


def test_a_wrong_row_fails_with_its_reason_while_the_others_run(client: FlaskClient, finish):
    content = b'prompt,temperature\nfine,0\ncold,-1\n"",0\nwide,0,1,2\n"two\nlines",\n'
    location = upload(client, content).headers["Location"]
    finish()
    found = rows(client.get(f"{location}/output"))
    assert [row["state"] for row in found] == [
        "succeeded",
        "failed",
        "failed",
        "failed",
        "succeeded",
    ]
    assert "temperature" in found[1]["error"]
    assert "empty_prompt" in found[2]["error"]
    assert "too_many_cells" in found[3]["error"]
    assert found[4]["output"] == "TWO\nLINES"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_file_as_spreadsheets_write_it_is_read(client: FlaskClient, finish, encoding: str):
    content = "prompt\nGrüße\n".encode(encoding)
    location = upload(client, content).headers["Location"]
    finish()
    assert [row["output"] for row in rows(client.get(f"{location}/output"))] == ["GRÜSSE"]


def test_a_cancelled_bulk_cancels_its_rows(client: FlaskClient, finish):
    location = upload(client).headers["Location"]
    finish(limit=1)
    answer = client.delete(location)
    assert (answer.status_code, answer.json["state"]) == (200, "cancelled")
    counts = {state: count for state, count in answer.json["counts"].items() if count}
    assert counts == {"succeeded": 1, "cancelled": 2}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_bulk_that_does_not_exist_is_not_found(client: FlaskClient, method: str):
    path = f"/api/v1/bulk/{uuid.uuid4()}"
    expect(client.open(path, method=method), "not_found", None, "no bulk", 404)
    expect(client.get(f"{path}/output"), "not_found", None, "no bulk", 404)


@pytest.mark.parametrize(
    ("fields", "code", "field", "words"),
    [
        ({"model": None}, "missing_field", "model", "`model` is required"),
        ({"model": "simulatd"}, "unknown_model", "model", "did you mean 'simulated'?"),
        ({"file": None}, "missing_field", "file", "`file` is required"),
        ({"file": "people.csv"}, "invalid_value", "file", "-F file=@"),
        ({"file": (io.BytesIO(CSV), "")}, "missing_field", "file", ""),
        ({"flie": (io.BytesIO(CSV), "b.csv")}, "unknown_field", "flie", "did you mean 'file'?"),
        ({"temprature": "1"}, "unknown_field", "temprature", "did you mean 'temperature'?"),
        ({"prompt_colum": "x"}, "unknown_field", "prompt_colum", "did you mean 'prompt_column'?"),
        ({"temperature": "-1"}, "out_of_range", "temperature", "greater than or equal to 0"),
        ({"max_tokens": "many"}, "invalid_value", "max_tokens", "valid integer"),
        ({"max_tokens": ["1", "2"]}, "duplicate_field", "max_tokens", "give it once"),
        ({"prompt_column": "question"}, "missing_column", "prompt_column", "'id', 'prompt'"),
    ],
)
def test_a_wrong_form_is_refused_whole(
    client: FlaskClient, fields: dict[str, Any], code: str, field: str, words: str
):
    expect(upload(client, **fields), code, field, words)
    assert client.get("/api/v1/jobs").json["data"] == []


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", "empty_bulk", "no rows"),
        (b"prompt\n", "empty_bulk", "no rows"),
        (b'prompt\n"open', "unreadable_file", "quote"),
        (b"prompt\ncaf\xe9\n", "unreadable_file", "UTF-8"),
        (b"prompt\na\x00b\n", "unreadable_file", "NUL"),
        (b"prompt,prompt\na,b\n", "duplicate_column", "'prompt'"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_whole(
    client: FlaskClient, content: bytes, code: str, words: str
):
    expect(upload(client, content), code, "file", words)


def test_two_files_at_once_are_refused(client: FlaskClient):
    files = [(io.BytesIO(CSV), "a.csv"), (io.BytesIO(CSV), "b.csv")]
    expect(upload(client, file=files), "duplicate_field", "file", "2 files")


@pytest.mark.parametrize("content_type", ["application/json", "text/csv", None])
def test_an_upload_that_is_not_multipart_is_415(client: FlaskClient, content_type: str | None):
    answer = client.post("/api/v1/bulk", data=CSV, content_type=content_type)
    expect(answer, "unsupported_media_type", None, "multipart/form-data", 415)


@pytest.mark.parametrize("body", [b"", b"--x\r\n\r\nnot a part", b"\x00" * 100])
@pytest.mark.parametrize("boundary", ["; boundary=x", ""])
def test_a_broken_multipart_body_is_refused(client: FlaskClient, body: bytes, boundary: str):
    content_type = f"multipart/form-data{boundary}"
    answer = client.post("/api/v1/bulk", data=body, content_type=content_type)
    expect(answer, "missing_field", "file", "`file` is required")


def test_a_huge_form_field_is_413(client: FlaskClient):
    head = b'--x\r\nContent-Disposition: form-data; name="prompt_column"\r\n\r\n'
    body = head + b"y" * 600_000 + b"\r\n--x--\r\n"
    answer = client.post("/api/v1/bulk", data=body, content_type="multipart/form-data; boundary=x")
    expect(answer, "body_too_large", None, "500 kB", 413)
