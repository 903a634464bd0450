"""The load: patient clients that submit, wait, ask, cancel, and note all that they are told."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import httpx

from nexus_jobs.chaos.history import History, Reply, Told, Try, prompt_of
from nexus_jobs.states import State

Document = Mapping[str, Any]

QUICK, SLOW = "quick", "slow"
MODELS: Final = (
    {"name": QUICK, "type": "simulated", "max_batch_size": 32, "simulated": {"step_ms": 5}},
    {"name": SLOW, "type": "simulated", "max_batch_size": 32, "simulated": {"step_ms": 50}},
)
"""A job of the first takes some ten milliseconds; one of the second is at work for seconds."""

CLIENTS: Final = 96
_TRIES: Final = 6
_PAUSE: Final = 0.5
_WAIT_SECONDS: Final = 2
_FILE_ROWS: Final = 20
_BATCH_ROWS: Final = 10


class Offer:
    """`rate` jobs a second, unless the clients are all busy being patient."""

    def __init__(self, url: str, history: History, *, rate: float, seed: int) -> None:
        self._url = url
        self._history = history
        self._rate = rate
        self._chance = random.Random(seed)  # noqa: S311
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._due = time.monotonic()
        self.offered = 0
        self.odd: Counter[str] = Counter()
        """Answers that no client should ever get, and how often they came."""
        self._threads = [
            threading.Thread(target=self._work, name=f"client {number}", daemon=True)
            for number in range(CLIENTS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Submit nothing more, and wait for the answers that are under way."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        with httpx.Client(base_url=self._url, timeout=15.0) as http:
            client = _Client(http, self._history, self._stopped, self.odd)
            while not self._stopped.is_set():
                talk, numbers, due = self._turn()
                if not self._stopped.wait(max(0.0, due - time.monotonic())):
                    talk(client, numbers)

    def _turn(self) -> tuple[Talk, Sequence[int], float]:
        """What to do next, with the numbers of its prompts, and when (monotonic seconds)."""
        with self._lock:
            first, due = self.offered, self._due
            [(talk, size, _)] = self._chance.choices(_TALKS, _WEIGHTS)
            self.offered += size
            # what was missed while all clients were busy is not made up for
            self._due = max(due, time.monotonic() - 1.0) + size / self._rate
        return talk, range(first, first + size), due


class _Client:
    """One connection, and what a good client does with the answers."""

    def __init__(
        self,
        http: httpx.Client,
        history: History,
        stopped: threading.Event,
        odd: Counter[str],
    ) -> None:
        self.http = http
        self.history = history
        self.stopped = stopped
        self._odd = odd

    def submit(self, path: str, numbers: Sequence[int], **parts: Any) -> Document | None:
        """Submit prompts until they are accepted; None if that takes too long."""
        for _ in range(_TRIES):
            if self.stopped.is_set():
                break
            try:
                answer = self.http.post(f"/api/v1/{path}", **parts)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                self.stopped.wait(_PAUSE)  # nothing was sent
                continue
            except httpx.TransportError:
                self._note(numbers, Reply.UNKNOWN)
                self.stopped.wait(_PAUSE)
                continue
            if answer.is_success:
                document: Document = answer.json()
                return document
            self._note(numbers, Reply.REFUSED if answer.status_code == 503 else Reply.UNKNOWN)
            self.stopped.wait(self._retry_after(answer))
        return None

    def ask(self, method: str, job_id: str, **parts: Any) -> State | None:
        """Ask for a job, or cancel it; its state if there was an answer."""
        asked = time.monotonic()
        try:
            answer = self.http.request(method, f"/api/v1/jobs/{job_id}", **parts)
        except httpx.TransportError:
            return None
        if answer.status_code == 404:
            self.history.heard(Told(job_id=job_id, asked=asked, at=time.monotonic(), state=None))
        elif answer.is_success:
            return self.hear(answer.json(), asked)
        elif answer.status_code != 409:  # too late to cancel
            self._retry_after(answer)
        return None

    def hear(self, job: Document, asked: float) -> State:
        """Note what was said of a job."""
        state = State(job["state"])
        told = Told(
            job_id=job["id"],
            asked=asked,
            at=time.monotonic(),
            state=state,
            attempt=job["attempt"],
            text=job["result"]["text"] if job["result"] else None,
        )
        self.history.heard(told)
        return state

    def accepted(self, numbers: Sequence[int], jobs: Sequence[Document]) -> None:
        """Note the ids that the prompts got."""
        pairs = zip(numbers, jobs, strict=True)
        self.history.tried(*(Try(number, Reply.ACCEPTED, job["id"]) for number, job in pairs))

    def accepted_unnamed(self, numbers: Sequence[int]) -> None:
        self._note(numbers, Reply.ACCEPTED)

    def _note(self, numbers: Sequence[int], reply: Reply) -> None:
        self.history.tried(*(Try(number, reply) for number in numbers))

    def _retry_after(self, answer: httpx.Response) -> float:
        """The seconds to wait as the server says."""
        if answer.status_code == 503 and "Retry-After" in answer.headers:
            return float(answer.headers["Retry-After"])
        method, path = answer.request.method, answer.request.url.path.split("/")[3]
        self._odd[f"{method} {path}: {answer.status_code} {answer.text[:200]}"] += 1
        return _PAUSE


Talk = Callable[[_Client, Sequence[int]], None]


def _body(number: int, **more: Any) -> dict[str, Any]:
    """Every twentieth job is a slow one."""
    slow = number % 20 == 7
    prompt = prompt_of(number, 30 if slow else 1 + number % 12)
    return {"model": SLOW if slow else QUICK, "prompt": prompt, "priority": number % 10, **more}


def _submit_one(client: _Client, number: int, key: str = "", **more: Any) -> str | None:
    asked, headers = time.monotonic(), {"Idempotency-Key": key} if key else {}
    job = client.submit("jobs", [number], json=_body(number, **more), headers=headers)
    if job is None:
        return None
    client.accepted([number], [job])
    client.hear(job, asked)
    return str(job["id"])


def _generate(client: _Client, numbers: Sequence[int]) -> None:
    """Submit and wait in one call."""
    asked, prefer = time.monotonic(), {"Prefer": f"wait={_WAIT_SECONDS}"}
    job = client.submit("generate", numbers, json=_body(numbers[0]), headers=prefer)
    if job is not None:
        client.accepted(numbers, [job])
        client.hear(job, asked)


def _follow(client: _Client, numbers: Sequence[int]) -> None:
    """Submit, then wait for the end, and ask once more after it."""
    job_id = _submit_one(client, numbers[0])
    if job_id is not None:
        for _ in range(3):
            client.ask("GET", job_id, params={"wait": _WAIT_SECONDS / 2})


def _forget(client: _Client, numbers: Sequence[int]) -> None:
    _submit_one(client, numbers[0])


def _again(client: _Client, numbers: Sequence[int]) -> None:
    """The same prompt a second time, which a cache may answer."""
    for _ in range(2):
        job_id = _submit_one(client, numbers[0])
        if job_id is not None:
            client.ask("GET", job_id, params={"wait": _WAIT_SECONDS})


def _once(client: _Client, numbers: Sequence[int]) -> None:
    """Submit under a key until it is accepted, and then again as if the answer had been lost."""
    client.history.keyed(numbers[0])
    key = f"prompt {numbers[0]}"
    if _submit_one(client, numbers[0], key) is not None:
        _submit_one(client, numbers[0], key)


def _expire(client: _Client, numbers: Sequence[int]) -> None:
    client.history.expiring(numbers[0])
    job_id = _submit_one(client, numbers[0], expires_in=1.0)
    if job_id is not None:
        client.ask("GET", job_id, params={"wait": _WAIT_SECONDS})


def _cancel(client: _Client, numbers: Sequence[int]) -> None:
    """Cancel at some moment of its short life, then ask what became of it."""
    job_id = _submit_one(client, numbers[0])
    if job_id is not None:
        client.stopped.wait(numbers[0] % 7 / 50)
        client.history.cancelling(job_id)
        client.ask("DELETE", job_id)
        client.ask("GET", job_id)


def _batch(client: _Client, numbers: Sequence[int]) -> None:
    asked, prefer = time.monotonic(), {"Prefer": f"wait={_WAIT_SECONDS}"}
    body = {"model": QUICK, "prompts": [_body(number)["prompt"] for number in numbers]}
    document = client.submit("generate/batch", numbers, json=body, headers=prefer)
    if document is not None:
        client.accepted(numbers, document["data"])
        for job in document["data"]:
            client.hear(job, asked)


def _file(client: _Client, numbers: Sequence[int]) -> None:
    lines = ["prompt", *(_body(number)["prompt"] for number in numbers)]
    files = {"file": ("prompts.csv", "\n".join(lines).encode())}
    if client.submit("bulk", numbers, data={"model": QUICK}, files=files) is not None:
        client.accepted_unnamed(numbers)


_TALKS: Final[Sequence[tuple[Talk, int, float]]] = (
    (_generate, 1, 4.0),
    (_follow, 1, 3.0),
    (_forget, 1, 3.0),
    (_again, 1, 1.0),
    (_once, 1, 2.0),
    (_expire, 1, 1.0),
    (_cancel, 1, 1.5),
    (_batch, _BATCH_ROWS, 0.6),
    (_file, _FILE_ROWS, 0.2),
)
"""What clients do, with how many jobs, and how often."""
_WEIGHTS: Final = [weight for *_, weight in _TALKS]
