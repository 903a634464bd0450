"""What the proxy between the platform and its servers does to connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from nexus_jobs.chaos.proxy import Proxy

Connect = Callable[[], socket.socket]


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """In front of a server that sends back all that it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_echo, args=[server], daemon=True).start()
        with closing(Proxy(server.getsockname())) as made:
            yield made
        server.shutdown(socket.SHUT_RDWR)


def _echo(server: socket.socket) -> None:
    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1024):
                    connection.sendall(data)
            except OSError:
                pass

    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=answer, args=[connection], daemon=True).start()


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Connect]:
    opened: list[socket.socket] = []

    def make() -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", proxy.port), timeout=5))
        return opened[-1]

    yield make
    for connection in opened:
        connection.close()


def answers(connection: socket.socket, within: float = 5.0) -> bool:
    connection.settimeout(within)
    connection.sendall(b"?")
    try:
        return connection.recv(1024).endswith(b"?")
    except TimeoutError:
        return False


def test_it_passes_bytes_on(connect: Connect) -> None:
    assert answers(connect())


def test_nothing_comes_through_until_it_resumes(proxy: Proxy, connect: Connect) -> None:
    old = connect()
    assert answers(old)
    proxy.stall()
    new = connect()
    assert not answers(old, within=0.2)
    assert not answers(new, within=0.2)
    proxy.resume()
    assert answers(old)
    assert answers(new)


def test_what_it_has_forgotten_stays_silent_and_open(proxy: Proxy, connect: Connect) -> None:
    old = connect()
    assert answers(old)
    proxy.forget()
    assert answers(connect())
    assert not answers(old, within=0.2)


def test_what_is_cut_is_reset_and_may_come_again(proxy: Proxy, connect: Connect) -> None:
    old = connect()
    assert answers(old)
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        answers(old)
    assert answers(connect())


def test_nobody_gets_in_while_it_refuses(proxy: Proxy, connect: Connect) -> None:
    old, port = connect(), proxy.port
    assert answers(old)
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        answers(old)
    with pytest.raises(ConnectionRefusedError):
        connect()
    proxy.accept()
    assert proxy.port == port
    assert answers(connect())


def test_a_server_that_is_away_is_a_reset(connect: Connect, proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        proxy.upstream = gone.getsockname()
    with pytest.raises(ConnectionResetError):
        connect().recv(1024)
