"""Loads the HTTP interface with clients that each send, wait for the answer, and send again.

    python -m loadtests.http_load --url http://127.0.0.1:8080 --clients 32 --seconds 10 [--submit]

Without --submit it asks `POST /generate`, and every answer must hold the words of its own request.
With --submit it asks `POST /jobs`, waits until all accepted jobs have ended, and looks up each.
"""

from __future__ import annotations

import argparse
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import orjson

from loadtests.http_clients import Load, Request, drive
from loadtests.processes import cpu_by_role

GENERATE: Final = "/api/v1/generate"
NUMBER: Final = "<number>"
"""Stands in a request, and in what is expected of its answer, for a number never used before."""
ECHO: Final = {"prompt": f"job {NUMBER}", "max_tokens": 8, "cache": "no"}
"""A request that the simulated engine answers with the prompt itself."""
ECHOED: Final = f'"text":"job {NUMBER}"'
PAGE: Final = 200
"""The most jobs that the list shows at once."""


def sync_load(
    url: str, clients: int, seconds: float, body: Mapping[str, Any], expected: str = ECHOED
) -> Load:
    """Ask `POST /generate` for `seconds`; a 202, which holds no answer, is not right.

    Raises:
        RuntimeError: no answer is right.
    """
    requests = numbered(url, GENERATE, body, expected)
    return _working(drive(url, _lasting(seconds, requests), clients))


def submit_load(url: str, clients: int, seconds: float, body: Mapping[str, Any]) -> Load:
    """Ask `POST /jobs` for `seconds`; `accepted` tells which jobs came of it.

    Raises:
        RuntimeError: no job was accepted.
    """
    requests = numbered(url, "/api/v1/jobs", body, '"object":"job"')
    return _working(drive(url, _lasting(seconds, requests), clients, keep_bodies=True))


def _working(load: Load) -> Load:
    if not load.right:
        raise RuntimeError(f"no answer is right; statuses and how often: {load.statuses}")
    return load


def numbered(url: str, path: str, body: Mapping[str, Any], expected: str) -> Iterator[Request]:
    """Requests that differ only in what stands for NUMBER, in the body and in `expected`."""
    run, mark = secrets.token_hex(4), NUMBER.encode()
    content, answer = orjson.dumps(body), expected.encode()
    uniques = (f"{run}-{number:09}".encode() for number in count())
    head = render_head(url, path, len(content.replace(mark, next(uniques))))
    for unique in uniques:
        payload = head + content.replace(mark, unique)
        yield Request(payload, answer.replace(mark, unique))


def render_head(url: str, path: str, length: int) -> bytes:
    """The head of a POST of so many bytes of JSON, on a connection that stays open."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def _lasting(seconds: float, requests: Iterator[Request]) -> Iterator[Request]:
    end = time.perf_counter() + seconds
    for request in requests:
        if time.perf_counter() >= end:
            return
        yield request


def accepted(load: Load) -> list[str]:
    """The ids of the jobs that were answered with 202, in the order they were accepted."""
    return sorted(orjson.loads(a.body)["id"] for a in load.right if a.status == 202)


def await_end(http: httpx.Client, job_id: str, timeout: float = 600.0) -> None:
    """Wait until the job has ended, at the cost of one request a minute."""
    end = time.monotonic() + timeout
    while _job(http, job_id, wait=60)["finished_at"] is None:
        if time.monotonic() > end:
            raise TimeoutError(f"job {job_id} has not ended after {timeout:g} s")


def _job(http: httpx.Client, job_id: str, wait: int) -> dict[str, Any]:
    answer = http.get(f"/api/v1/jobs/{job_id}", params={"wait": wait}).raise_for_status()
    job: dict[str, Any] = answer.json()
    return job


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of accepted jobs, by their rows.

    `lost` are those without an answer that no other job got, whatever the reason; so the prompts
    must all differ. `seconds` run from the first submission until the last end, on the database's
    clock.
    """

    states: Mapping[str, int]
    lost: int
    seconds: float

    @property
    def rate(self) -> float:
        """Jobs that succeeded, a second."""
        return self.states.get("succeeded", 0) / self.seconds


def fate(http: httpx.Client, ids: Sequence[str]) -> Fate:
    """Look up every one of the jobs; those that have not ended yet are waited for."""
    wanted = set(ids)
    jobs = {job["id"]: job for job in _newest_down_to(http, ids[0]) if job["id"] in wanted}
    for job_id in [i for i, job in jobs.items() if job["finished_at"] is None]:
        await_end(http, job_id)
        jobs[job_id] = _job(http, job_id, wait=0)
    answers = {job["result"]["text"] for job in jobs.values() if job["result"]}
    submitted = min(datetime.fromisoformat(job["submitted_at"]) for job in jobs.values())
    finished = max(datetime.fromisoformat(job["finished_at"]) for job in jobs.values())
    return Fate(
        states=Counter(job["state"] for job in jobs.values()),
        lost=len(wanted) - len(answers),
        seconds=(finished - submitted).total_seconds(),
    )


def _newest_down_to(http: httpx.Client, oldest: str) -> Iterator[dict[str, Any]]:
    cursor: str | None = None
    while True:
        params = {"limit": PAGE} | ({"cursor": cursor} if cursor else {})
        page = http.get("/api/v1/jobs", params=params).raise_for_status().json()
        yield from (job for job in page["data"] if job["id"] >= oldest)
        cursor = page["next_cursor"]
        if cursor is None or cursor < oldest:
            return


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=2.0, help="seconds that do not count")
    parser.add_argument("--model", default="simulated")
    parser.add_argument("--submit", action="store_true")
    parser.add_argument(
        "--pid", type=int, nargs="*", default=[], help="of `nexus up`: show its CPU"
    )
    parser.add_argument(
        "--expect", default=ECHOED, help="what is in a right answer; default: the prompt"
    )
    arguments = parser.parse_args()
    with httpx.Client(base_url=arguments.url, timeout=90) as http:
        _measure(arguments, http)


def _measure(arguments: argparse.Namespace, http: httpx.Client) -> None:
    body = ECHO | {"model": arguments.model}
    given = (arguments.url, arguments.clients)
    sync_load(*given, arguments.warm_up, body, arguments.expect)
    before = cpu_by_role(*arguments.pid)
    if arguments.submit:
        load = submit_load(*given, arguments.seconds, body)
        await_end(http, accepted(load)[-1])
    else:
        load = sync_load(*given, arguments.seconds, body, arguments.expect)
    used = cpu_by_role(*arguments.pid) - before
    _print_load(load)
    if used:
        _print_cpu(used, len(load.right))
    if arguments.submit:
        end = fate(http, accepted(load))
        print(
            f"submitted to ended: {end.rate:.0f}/s in {end.seconds:.1f} s, lost {end.lost}, "
            f"{dict(end.states)}"
        )


def _print_load(load: Load) -> None:
    took = load.latency
    print(
        f"{load.rate:.0f}/s, {len(load.right)} right of {load.statuses}, p50 {1000 * took.p50:.2f} "
        f"p95 {1000 * took.p95:.2f} p99 {1000 * took.p99:.2f} max {1000 * took.max:.2f} ms; "
        f"the clients took {load.generator_cpu / load.seconds:.0%} of a core"
    )


def _print_cpu(used: Counter[str], jobs: int) -> None:
    shares = ", ".join(f"{role} {spent / jobs:.2f}" for role, spent in used.most_common())
    print(f"processor seconds for 1,000 jobs: {used.total() / jobs:.2f} ({shares})")


if __name__ == "__main__":
    main()
