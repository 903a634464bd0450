"""A server that answers the command line by a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl


class Script:
    """Answers by method and path; the last of several is repeated. Requests are kept."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        self.requests: list[tuple[str, bytes]] = []
        self.queries: list[dict[str, str]] = []
        self.key: str | None = None
        self.url = ""

    def on(self, call: str, *answers: Any) -> None:
        self.answers[call] = [a if isinstance(a, tuple) else (200, a) for a in answers]

    def answer(self, call: str, body: bytes) -> tuple[int, Any]:
        self.requests.append((call, body))
        left = self.answers[call]
        return left.pop(0) if len(left) > 1 else left[0]


@contextmanager
def serving() -> Iterator[Script]:
    """A server on this machine that plays the script."""
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path, _, query = self.path.removeprefix("/api/v1/").partition("?")
            script.queries.append(dict(parse_qsl(query)))
            script.key = self.headers["Idempotency-Key"]
            status, answer = script.answer(f"{self.command} {path}", body)
            content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = reply  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        script.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, args=[0.01])
        thread.start()
        yield script
        http.shutdown()
        thread.join()
