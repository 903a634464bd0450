"""What the client makes of a server's answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from nexus_jobs.client import Client, Refused, ServerUnreachable


def client_of(answer: httpx.Response | Exception) -> Client:
    """A client of a server that always gives this answer."""

    def handle(_request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Client("http://nexus.test", transport=httpx.MockTransport(handle))


def problem(status: int, *messages: str) -> httpx.Response:
    errors = [{"field": None, "code": "x", "message": message} for message in messages]
    document = {"status": status, "code": "some_code", "detail": "in short", "errors": errors}
    return httpx.Response(status, json=document)


def test_a_refusal_says_all_that_is_wrong_a_line_each() -> None:
    with (
        client_of(problem(422, "`model` is required", "`top_p`: too large")) as client,
        pytest.raises(Refused) as caught,
    ):
        client.submit_job({})
    assert str(caught.value) == "`model` is required\n`top_p`: too large"
    assert caught.value.code == "some_code"


def test_a_refusal_without_details_says_what_it_says_in_short() -> None:
    with client_of(problem(404)) as client, pytest.raises(Refused, match="in short"):
        client.job("1")


@pytest.mark.parametrize("key", [None, "k 1"])
def test_a_submission_carries_its_key_if_it_has_one(key: str | None) -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(202, json={"id": "j1"})

    with Client("http://nexus.test", transport=httpx.MockTransport(handle)) as client:
        client.submit_job({}, key)
    assert seen[0].headers.get("Idempotency-Key") == key


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_server_that_is_away_for_a_moment_is_worth_another_try(status: int) -> None:
    with client_of(problem(status)) as client, pytest.raises(ServerUnreachable):
        client.bulk("1")


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused"), httpx.RemoteProtocolError("hung up")]
)
def test_a_connection_that_fails_names_the_server(error: Exception) -> None:
    with client_of(error) as client, pytest.raises(ServerUnreachable, match=r"http://nexus\.test"):
        client.models()


@pytest.mark.parametrize(
    "url", ["foo", "nexus.test:8080", "http://", "http://[", "http://nexus.test:port", "ftp://a"]
)
def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(Refused, match=r"write it like http://127\.0\.0\.1:8080"):
        Client(url)


def test_no_message_holds_the_password_of_a_url() -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("workers"):
            return httpx.Response(404, text="<html>")
        raise httpx.ConnectError("refused")

    url = "http://ops:s3cret@nexus.test"
    with Client(url, transport=httpx.MockTransport(fail)) as client:
        for call in (client.models, client.workers):
            with pytest.raises((Refused, ServerUnreachable), match=r"http://\*\*\*@") as caught:
                call()
            assert "s3cret" not in str(caught.value)
    with pytest.raises(Refused) as refused:
        Client("ops:s3cret@nexus.test")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "key", "reason"),
    [
        ({"temperature": float("nan")}, None, "not JSON compliant"),
        ({"prompt": "a\udcffb"}, None, r"'\\udcff' is not UTF-8"),
        ({}, "schlüssel", "'ü' is not ASCII"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_the_reason(
    body: dict[str, object], key: str | None, reason: str
) -> None:
    with client_of(httpx.Response(202, json={})) as client, pytest.raises(Refused, match=reason):
        client.submit_job(body, key)


def test_the_server_is_asked_for_a_name_that_is_no_text_too() -> None:
    with (
        client_of(problem(404, "no such model")) as client,
        pytest.raises(Refused, match="no such"),
    ):
        client.model("a\udcffb")


def test_another_programs_answers_are_not_taken_for_ours() -> None:
    with (
        client_of(httpx.Response(200, text="<html>")) as client,
        pytest.raises(Refused, match="does not answer like Nexus Jobs"),
    ):
        client.models()
    with (
        client_of(httpx.Response(404, text="<html>")) as client,
        pytest.raises(Refused, match="answered 404 Not Found"),
    ):
        client.models()


def test_a_server_is_ready_only_when_it_says_so() -> None:
    for answer in (httpx.Response(503), httpx.ConnectError("refused")):
        with client_of(answer) as client:
            assert not client.ready()
    with client_of(httpx.Response(200)) as client:
        assert client.ready()


def test_an_output_that_breaks_off_leaves_no_file_and_the_old_one_alone(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"id,output\n"
        raise httpx.ReadError("hung up")

    target = tmp_path / "out.csv"
    target.write_text("old")
    with (
        client_of(httpx.Response(200, content=broken())) as client,
        pytest.raises(ServerUnreachable),
    ):
        client.save_bulk_output("1", target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
