"""A good client: it tries again when it should, and notes all that it is told."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx

from nexus_jobs.chaos.history import History, Reply, Told, Try
from nexus_jobs.states import State

Document = Mapping[str, Any]

_TRIES: Final = 6
_PAUSE: Final = 0.5
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout)


class Client:
    """One connection. `odd` counts answers that no client should ever get."""

    def __init__(
        self, url: str, history: History, stopped: threading.Event, odd: Counter[str]
    ) -> None:
        self.history = history
        self.stopped = stopped
        self._odd = odd
        self._http = httpx.Client(base_url=url, timeout=15.0)

    def close(self) -> None:
        self._http.close()

    def submit(self, path: str, numbers: Sequence[int], **parts: Any) -> Document | None:
        """Submit the prompts until they are accepted; None if that takes too long.

        The answer is one job, or a list of them in the order of the numbers, or the bulk of a file.
        """
        for _ in range(_TRIES):
            if self.stopped.is_set():
                break
            asked = time.monotonic()
            try:
                answer = self._http.post(f"/api/v1/{path}", **parts)
            except _NEVER_SENT:
                self.stopped.wait(_PAUSE)
                continue
            except httpx.TransportError:
                self._tried(numbers, Reply.UNKNOWN)
                self.stopped.wait(_PAUSE)
                continue
            if answer.is_success:
                return self._accepted(numbers, answer.json(), asked)
            refused = answer.status_code == 503
            self._tried(numbers, Reply.REFUSED if refused else Reply.UNKNOWN)
            self.stopped.wait(self._retry_after(answer))
        return None

    def ask(self, method: str, job_id: str, **parts: Any) -> None:
        """Ask for a job, or cancel it."""
        asked = time.monotonic()
        try:
            answer = self._http.request(method, f"/api/v1/jobs/{job_id}", **parts)
        except httpx.TransportError:
            return
        if answer.status_code == 404:
            self.history.heard(Told(job_id=job_id, asked=asked, at=time.monotonic(), state=None))
        elif answer.is_success:
            self._hear(answer.json(), asked)
        elif answer.status_code != 409:  # too late to cancel
            self._retry_after(answer)

    def _accepted(self, numbers: Sequence[int], document: Document, asked: float) -> Document:
        if document["object"] == "bulk":
            self._tried(numbers, Reply.ACCEPTED)
            return document
        jobs = document["data"] if document["object"] == "list" else [document]
        self.history.tried(
            *(
                Try(number, Reply.ACCEPTED, job["id"])
                for number, job in zip(numbers, jobs, strict=True)
            )
        )
        for job in jobs:
            self._hear(job, asked)
        return document

    def _hear(self, job: Document, asked: float) -> None:
        told = Told(
            job_id=job["id"],
            asked=asked,
            at=time.monotonic(),
            state=State(job["state"]),
            attempt=job["attempt"],
            text=job["result"]["text"] if job["result"] else None,
        )
        self.history.heard(told)

    def _tried(self, numbers: Sequence[int], reply: Reply) -> None:
        self.history.tried(*(Try(number, reply) for number in numbers))

    def _retry_after(self, answer: httpx.Response) -> float:
        """The seconds to wait as the server says; whatever else came is odd."""
        if answer.status_code == 503 and "Retry-After" in answer.headers:
            return float(answer.headers["Retry-After"])
        method, path = answer.request.method, answer.request.url.path.split("/")[3]
        self._odd[f"{method} {path}: {answer.status_code} {answer.text[:200]}"] += 1
        return _PAUSE
