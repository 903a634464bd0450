"""Many HTTP clients in one thread, which costs little of the processors that it shares.

Plain sockets on one epoll, requests rendered beforehand, and nothing parsed but what is checked.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, NamedTuple
from urllib.parse import urlsplit

NO_ANSWER: Final = 0
"""The status of a request whose connection broke, or that nothing came back for."""


class Request(NamedTuple):
    """The bytes to send, what a right answer contains, and when to send it.

    `due` is in seconds from the start of the load; None is as soon as a client is free.
    """

    payload: bytes
    expected: bytes
    due: float | None = None


class Answer(NamedTuple):
    """What came of the request of that number.

    `seconds` run from when it was due, or else sent; `ended` is counted from the load's start.
    """

    request: int
    status: int
    right: bool
    seconds: float
    ended: float
    body: bytes


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that answers took."""

    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Latency:
        ordered = sorted(seconds)
        return cls(*(percentile(ordered, share) for share in (0.5, 0.95, 0.99, 1.0)))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ordered values that at least `share` of them do not exceed."""
    return ordered[ceil(share * len(ordered)) - 1]


@dataclass(frozen=True, slots=True)
class Load:
    """All answers, and the processor seconds that the clients themselves took."""

    answers: Sequence[Answer]
    generator_cpu: float

    @property
    def right(self) -> list[Answer]:
        """The answers with a status 2xx that contain what was expected of them."""
        return [answer for answer in self.answers if answer.right]

    @property
    def seconds(self) -> float:
        """From the start to the last answer."""
        return max(answer.ended for answer in self.answers)

    @property
    def rate(self) -> float:
        """Right answers a second."""
        return len(self.right) / self.seconds

    @property
    def statuses(self) -> dict[int, int]:
        return dict(Counter(answer.status for answer in self.answers))

    @property
    def latency(self) -> Latency:
        """Of the right answers."""
        return Latency.of(answer.seconds for answer in self.right)


def drive(
    url: str,
    requests: Iterator[Request],
    clients: int,
    *,
    patience: float = 90.0,
    keep_bodies: bool = False,
) -> Load:
    """Send each request when it is due and one of the clients is free, until all are answered.

    When nothing happens for `patience` seconds, what is under way counts as NO_ANSWER.
    """
    parts = urlsplit(url)
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    crowd = _Crowd(address, requests, clients, keep_bodies=keep_bodies)
    cpu = time.process_time()
    crowd.run(patience)
    return Load(crowd.answers, time.process_time() - cpu)


class _Client:
    """One keep-alive connection with at most one request under way."""

    __slots__ = ("_address", "_received", "number", "request", "since", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection(self._address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, number: int, request: Request, since: float) -> None:
        self.number, self.request, self.since = number, request, since
        self._received = b""
        self.socket.sendall(request.payload)

    def receive(self) -> bytes | None:
        """The response, head and body, once all of it is there.

        Raises:
            ConnectionResetError: the server has closed the connection.
        """
        piece = self.socket.recv(262_144)
        if not piece:
            raise ConnectionResetError
        self._received += piece
        return self._received if _is_whole(self._received) else None


def _is_whole(response: bytes) -> bool:
    """Whether the response has its whole head and as many bytes after it as the head says."""
    end = response.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = response[:end].lower()
    _, _, after = head.partition(b"\r\ncontent-length:")
    return len(response) - end - 4 >= int(after.split(b"\r\n", 1)[0])


class _Crowd:
    """The clients, those that are idle and those that await an answer, by file descriptor."""

    def __init__(
        self,
        address: tuple[str, int],
        requests: Iterator[Request],
        clients: int,
        *,
        keep_bodies: bool,
    ) -> None:
        self.answers: list[Answer] = []
        self._idle = [_Client(address) for _ in range(clients)]
        self._busy: dict[int, _Client] = {}
        self._keep_bodies = keep_bodies
        self._poller = select.epoll()
        for client in self._idle:
            self._poller.register(client.socket, select.EPOLLIN)
        self._requests = enumerate(requests)
        self._upcoming = next(self._requests, None)

    def run(self, patience: float) -> None:
        self._started = time.perf_counter()
        while self._upcoming or self._busy:
            pause = self._send_what_is_due()
            ready = self._poller.poll(patience if pause is None else pause)
            for descriptor, _ in ready:
                self._receive(self._busy[descriptor])
            if pause is None and not ready:
                break
        for client in list(self._busy.values()):
            self._note(client, NO_ANSWER, b"")
        for client in self._idle:
            client.socket.close()
        self._poller.close()

    def _send_what_is_due(self) -> float | None:
        """The seconds until an idle client has something to send; None if only an answer helps."""
        while self._upcoming and self._idle:
            number, request = self._upcoming
            now = time.perf_counter()
            since = now if request.due is None else self._started + request.due
            if since > now:
                return since - now
            client = self._idle.pop()
            self._busy[client.socket.fileno()] = client
            client.send(number, request, since)
            self._upcoming = next(self._requests, None)
        return None

    def _receive(self, client: _Client) -> None:
        try:
            response = client.receive()
        except ConnectionResetError:
            self._note(client, NO_ANSWER, b"")
            client.socket.close()
            client.connect()
            self._poller.register(client.socket, select.EPOLLIN)
            return
        if response is not None:
            self._note(client, int(response[9:12]), response)

    def _note(self, client: _Client, status: int, response: bytes) -> None:
        now = time.perf_counter()
        right = status // 100 == 2 and client.request.expected in response
        body = response.partition(b"\r\n\r\n")[2] if self._keep_bodies else b""
        times = now - client.since, now - self._started
        self.answers.append(Answer(client.number, status, right, *times, body))
        del self._busy[client.socket.fileno()]
        self._idle.append(client)
