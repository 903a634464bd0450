"""The HTTP interface as Python calls, for the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import httpx

from nexus_jobs.adapters.loopback import DIRECT
from nexus_jobs.errors import NexusError
from nexus_jobs.urls import check_server, without_passwords

Document = dict[str, Any]

LONGEST_WAIT: Final = 60.0
"""Seconds that the server holds a request for a job that has not ended."""

_TIMEOUT: Final = httpx.Timeout(5.0, read=LONGEST_WAIT + 30.0)
_TRANSFER: Final = httpx.Timeout(5.0, read=None, write=None)
"""For files: a server takes its time over the rows of a large one."""
_CHUNK: Final = 1 << 20
_AWAY: Final = {502, 503, 504}


class ServerUnreachable(NexusError):
    """No answer, or one that broke off; the same call may work a little later."""

    code = "server_unreachable"


class Refused(NexusError):
    """The server understood and refused; the message is made of its problem document."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Client:
    """Calls to one server; every method may raise ServerUnreachable and Refused.

    Raises:
        Refused: `url` is no URL of a server.
    """

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        self._place = without_passwords(url)
        try:
            base = httpx.URL(check_server(url.rstrip("/")))
        except (ValueError, httpx.InvalidURL) as error:
            raise Refused("invalid_url", f"{self._place!r}: {error}") from error
        self._http = httpx.Client(
            base_url=base, timeout=_TIMEOUT, mounts=DIRECT, transport=transport
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def submit_job(self, body: Mapping[str, Any], key: str | None = None) -> Document:
        """Submit a job; sent again with the same key, it still makes only one."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return self._call("POST", "jobs", json=body, headers=headers)

    def job(self, job_id: str, wait: float = 0.0) -> Document:
        return self._call("GET", f"jobs/{job_id}", params={"wait": wait})

    def jobs(self, which: Mapping[str, Any]) -> list[Document]:
        """The newest jobs; `which` are query parameters."""
        return list(self._call("GET", "jobs", params=which)["data"])

    def all_jobs(self, which: Mapping[str, Any]) -> Iterator[Document]:
        """All such jobs, newest first, read a page at a time."""
        page = self._call("GET", "jobs", params=which)
        while True:
            yield from page["data"]
            if page["next_cursor"] is None:
                return
            page = self._call("GET", "jobs", params={**which, "cursor": page["next_cursor"]})

    def cancel_job(self, job_id: str) -> Document:
        return self._call("DELETE", f"jobs/{job_id}")

    def retry_job(self, job_id: str, changes: Mapping[str, Any]) -> Document:
        return self._call("POST", f"jobs/{job_id}/retry", json=changes)

    def submit_bulk(self, file: Path, fields: Mapping[str, Any]) -> Document:
        """Upload a file; it is streamed from the disk, never held in memory."""
        with file.open("rb") as stream:
            files = {"file": (file.name, stream)}
            return self._call("POST", "bulk", data=fields, files=files, timeout=_TRANSFER)

    def bulk(self, bulk_id: str) -> Document:
        return self._call("GET", f"bulk/{bulk_id}")

    def cancel_bulk(self, bulk_id: str) -> Document:
        return self._call("DELETE", f"bulk/{bulk_id}")

    def retry_bulk(self, bulk_id: str) -> Document:
        return self._call("POST", f"bulk/{bulk_id}/retry")

    def save_bulk_output(self, bulk_id: str, to: Path) -> None:
        """Write the output beside `to` and move it there once it is whole."""
        draft = to.with_name(f".{to.name}.part")
        try:
            output = self._answer("GET", f"bulk/{bulk_id}/output", timeout=_TRANSFER)
            with output as answer, draft.open("wb") as file:
                for chunk in answer.iter_bytes(_CHUNK):
                    file.write(chunk)
            os.replace(draft, to)
        finally:
            draft.unlink(missing_ok=True)

    def models(self) -> list[Document]:
        return list(self._call("GET", "models")["data"])

    def model(self, name: str) -> Document:
        return self._call("GET", f"models/{_quoted(name)}")

    def register_model(self, config: Mapping[str, Any]) -> Document:
        return self._call("POST", "models", json=config)

    def remove_model(self, name: str) -> None:
        with self._answer("DELETE", f"models/{_quoted(name)}"):
            pass

    def want_model(self, name: str, call: str, wait: float = 0.0) -> Document:
        """`call` is load, unload or auto; the model when it is so, or `wait` seconds are over."""
        return self._call("POST", f"models/{_quoted(name)}/{call}", params={"wait": wait})

    def workers(self) -> list[Document]:
        return list(self._call("GET", "workers")["data"])

    def assignments(self, decisions: int) -> Document:
        """Who is to serve what, so many of the latest decisions, and the recommendations."""
        return self._call("GET", "assignments", params={"decisions": decisions})

    def routes(self) -> list[Document]:
        return list(self._call("GET", "routes")["data"])

    def route(self, name: str) -> Document:
        return self._call("GET", f"routes/{_quoted(name)}")

    def put_route(self, name: str, config: Mapping[str, Any]) -> Document:
        """Add a route, or replace the one of that name."""
        return self._call("PUT", f"routes/{_quoted(name)}", json=config)

    def remove_route(self, name: str) -> Document:
        return self._call("DELETE", f"routes/{_quoted(name)}")

    def ready(self) -> bool:
        """Whether the server says that it can take jobs and have them run."""
        try:
            return self._http.get("/health/ready").is_success
        except httpx.TransportError:
            return False

    def _call(self, method: str, path: str, **parts: Any) -> Document:
        with self._answer(method, path, **parts) as answer:
            answer.read()
            try:
                document: Document = answer.json()
            except ValueError as error:
                message = f"{self._place} does not answer like Nexus Jobs"
                raise Refused("unexpected_answer", message) from error
            return document

    def _request(self, method: str, path: str, parts: Mapping[str, Any]) -> httpx.Request:
        try:
            return self._http.build_request(method, f"/api/v1/{path}", **parts)
        except UnicodeEncodeError as error:
            wrong = f"{error.object[error.start]!r} is not {error.encoding.upper()}"
            raise Refused("invalid_request", f"this cannot be sent: {wrong}") from error
        except (ValueError, httpx.InvalidURL) as error:  # a number like nan, say
            raise Refused("invalid_request", f"this cannot be sent: {error}") from error

    @contextmanager
    def _answer(self, method: str, path: str, **parts: Any) -> Iterator[httpx.Response]:
        request = self._request(method, path, parts)
        try:
            with closing(self._http.send(request, stream=True)) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _problem(answer)
                yield answer
        except httpx.LocalProtocolError as error:
            raise Refused("invalid_request", f"this cannot be sent: {error}") from error
        except httpx.TransportError as error:
            message = f"no answer from {self._place} ({error}); is `nexus up` running?"
            raise ServerUnreachable(message) from error


def _quoted(name: str) -> str:
    """As a part of a path; of bytes that are no text too, so that the server says what is wrong."""
    return quote(name, safe="", errors="surrogateescape")


def _problem(answer: httpx.Response) -> NexusError:
    """The error that an answer stands for, a sentence for each thing that is wrong."""
    try:
        document = answer.json()
        sentences = [error["message"] for error in document["errors"]] or [document["detail"]]
        code, message = document["code"], "\n".join(sentences)
    except (ValueError, KeyError, TypeError):
        code = f"http_{answer.status_code}"
        place = without_passwords(str(answer.url))
        message = f"{place} answered {answer.status_code} {answer.reason_phrase}"
    return ServerUnreachable(message) if answer.status_code in _AWAY else Refused(code, message)
