"""What clients of an API process see when it stops."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from nexus_jobs.cli.roles import STOP_SECONDS
from tests.e2e.roles import Roles, answers
from tests.e2e.stack import SIMULATED, free_port, until

JOB = {"model": "simulated", "prompt": "hello", "cache": "no"}
BATCH = {"model": "simulated", "prompts": ["a", "b"], "cache": "no"}


class Call:
    """A request on a connection of its own, of which the last byte may be sent later."""

    def __init__(self, port: int, method: str, path: str, body: object = None, *, held: int = 0):
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
        message = f"{head}Content-Type: application/json\r\n\r\n".encode() + content
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.sendall(message[: len(message) - held])
        self._held = message[len(message) - held :]

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send_the_rest(self) -> None:
        self._socket.sendall(self._held)

    def received(self) -> bytes:
        """All that has come when the server closes the connection."""
        with self:
            return b"".join(iter(lambda: self._socket.recv(65536), b""))

    def answer(self) -> tuple[int, dict[str, str], dict]:
        """Status, headers and document."""
        head, _, body = self.received().partition(b"\r\n\r\n")
        assert head, "the connection was closed without an answer"
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        assert int(headers["content-length"]) == len(body)
        return int(status.split()[1]), headers, json.loads(body)


@pytest.fixture
def roles(make_roles) -> Roles:
    """No worker, so that nothing ends."""
    return make_roles(SIMULATED)


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
def test_requests_that_wait_are_answered_with_what_is_known(roles, how, processes):
    roles.env["NEXUS_SERVER__WORKERS"] = processes
    port = roles.add_api("api")
    job = httpx.post(f"http://127.0.0.1:{port}/api/v1/jobs", json=JOB)
    watching = Call(port, "GET", f"{job.headers['Location']}?wait=60")
    generating = [Call(port, "POST", "/api/v1/generate", JOB) for _ in range(20)]
    batch = Call(port, "POST", "/api/v1/generate/batch", BATCH)
    until(lambda: _rows(roles) == 1 + 20 + 2)

    started = time.monotonic()
    if how == "Ctrl-C":
        roles.interrupt("api")
    else:
        roles.send("api", signal.SIGTERM)
    for status, headers, document in [call.answer() for call in generating]:
        assert (status, document["state"]) == (202, "queued")
        assert headers["location"].endswith(document["id"])
    status, headers, document = batch.answer()
    assert (status, len(document["data"])) == (202, 2)
    assert headers["location"].endswith(document["bulk_id"])
    status, _, document = watching.answer()
    assert (status, {**document, "waiting": None}) == (200, job.json())
    assert time.monotonic() - started < STOP_SECONDS / 2
    assert roles.ended("api") == 0
    assert time.monotonic() - started < STOP_SECONDS


def test_a_request_that_comes_in_meanwhile_is_served_and_one_that_does_not_is_no_job(roles):
    port = roles.add_api("api")
    half = Call(port, "POST", "/api/v1/jobs", JOB, held=5)
    never = Call(port, "POST", "/api/v1/jobs", JOB, held=5)
    with half, never:
        until(lambda: answers(port))  # on a later connection, so that both have been read
        roles.send("api", signal.SIGTERM)
        until(lambda: not answers(port))
        half.send_the_rest()
        status, headers, job = half.answer()
        assert (status, headers["connection"]) == (202, "close")
        assert roles.ended("api") == 0  # however long the other one takes
        assert roles.sql("SELECT id FROM jobs") == [(job["id"],)]
        assert never.received() == b""


def test_it_can_be_stopped_while_it_starts(roles):
    roles.add("api", "api", "--port", str(free_port()))
    until(lambda: _children(roles.pid_of("api")))
    assert roles.terminate("api") < STOP_SECONDS / 2


def _rows(roles: Roles) -> int:
    return roles.sql("SELECT count(*) FROM jobs")[0][0]


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()
