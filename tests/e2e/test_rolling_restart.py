"""Every role is restarted in turn while clients go on."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
from typing import Any

import pytest

from tests.e2e.roles import answers
from tests.e2e.stack import SIMULATED, until

MODEL = {**SIMULATED, "simulated": {"step_ms": 5}}
CLIENTS = 6


class Client(threading.Thread):
    """Submits, waits and looks through every port in turn, and keeps what it was told.

    It tries the next port when a connection is refused or closed before the first byte of an
    answer, and at a 503. Anything else ends it with an error.
    """

    def __init__(self, number: int, ports: list[int]) -> None:
        super().__init__(name=f"client {number}")
        self._connections = [
            http.client.HTTPConnection("127.0.0.1", port, timeout=30) for port in ports
        ]
        self._turns = itertools.cycle(self._connections)
        self._stop_asked = threading.Event()
        self.told: dict[str, str] = {}
        self.retries = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            for number in itertools.count():
                if self._stop_asked.is_set():
                    break
                self._one_job(f"{self.name}, job {number}", at_once=number % 2 == 0)
        except Exception as error:
            self.error = error
        finally:
            for connection in self._connections:
                connection.close()

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(60)

    def _one_job(self, prompt: str, *, at_once: bool) -> None:
        body = {"model": "simulated", "prompt": prompt, "max_tokens": 10, "ignore_eos": True}
        path = "/api/v1/generate" if at_once else "/api/v1/jobs"
        job = self._ask("POST", path, {**body, "cache": "no"}, (200, 202))
        self.told[job["id"]] = prompt
        while job["state"] != "succeeded":
            assert job["state"] in ("queued", "running"), job
            job = self._ask("GET", f"/api/v1/jobs/{job['id']}?wait=10", None, (200,))
        assert job["result"]["text"].startswith(prompt)

    def _ask(self, method: str, path: str, body: Any, expected: tuple[int, ...]) -> dict[str, Any]:
        content = None if body is None else json.dumps(body)
        while True:
            connection = next(self._turns)
            try:
                connection.request(method, path, content, {"Content-Type": "application/json"})
                answer = connection.getresponse()
            except ConnectionError:
                connection.close()
                self.retries += 1
                continue
            document = json.loads(answer.read())
            if answer.status == 503:
                assert answer.headers["Retry-After"]
                self.retries += 1
                continue
            assert answer.status in expected, document
            return document


@pytest.fixture
def load():
    """Starts clients, and stops them at the end."""
    clients: list[Client] = []

    def start(ports: list[int]) -> list[Client]:
        clients.extend(Client(number, ports) for number in range(CLIENTS))
        for client in clients:
            client.start()
        return clients

    yield start
    for client in clients:
        client.stop()


@pytest.mark.slow
def test_clients_see_nothing_of_a_restart_but_what_they_may_retry(make_roles, load):
    roles = make_roles(MODEL)
    roles.env["NEXUS_WORKER__GRACE_SECONDS"] = "5"
    roles.add("scheduler", "scheduler")
    ports = {name: roles.add_api(name) for name in ("a", "b")}
    for name in ("w1", "w2"):
        roles.add_worker(name)

    clients = load(list(ports.values()))
    for name in ("a", "w1", "scheduler", "b", "w2", "a"):
        before = _told(clients)
        until(lambda before=before: _told(clients) > before + 50)
        took = roles.terminate(name)
        print(f"{name}: {took:.1f} s to stop, {_told(clients) - before} jobs meanwhile")
        lives = roles.log_of(name).count("model.ready")
        roles.begin(name)
        if name in ports:
            until(lambda name=name: answers(ports[name]), timeout=30)
        elif lives:
            roles.await_models(name, earlier=lives)
    for client in clients:
        client.stop()

    assert [client.error for client in clients] == [None] * CLIENTS
    told = {job_id: prompt for client in clients for job_id, prompt in client.told.items()}
    rows = roles.sql("SELECT jobs.id, state, attempt FROM jobs JOIN results ON job_id = jobs.id")
    print(f"{len(told)} jobs, {sum(client.retries for client in clients)} retries")
    assert {job_id: (state, attempt) for job_id, state, attempt in rows} == dict.fromkeys(
        told, ("succeeded", 1)
    )
    assert roles.sql("SELECT count(*) FROM jobs") == [(len(told),)]


def _told(clients: list[Client]) -> int:
    return sum(len(client.told) for client in clients)
