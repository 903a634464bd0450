"""A worker on a host of its own, whose way to each server can be cut."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Protocol

from sqlalchemy import make_url

from nexus_jobs.chaos.ground import Ground
from nexus_jobs.chaos.proxy import Address, Proxy

SERVERS = ("redis", "database")
NAME = "far"
ASKED_SECONDS = 2.0
"""In such a time every thread of a worker has asked the database for something."""


class Ways(Protocol):
    """The ways to the servers; one that is cut drops every packet and says nothing."""

    prefix: tuple[str, ...]
    """What runs a command on the far host."""

    def address(self, server: str) -> tuple[str, int]:
        """Where the far host finds the server."""

    def cut(self, server: str) -> None: ...

    def mend(self, server: str) -> None: ...

    def replace(self, server: str) -> None:
        """The server's host dies without a word and another takes its place."""


class Namespace:
    """A network namespace with a cable of its own to each server.

    Raises:
        OSError: we may not make one.
    """

    def __init__(self, upstreams: dict[str, Address], parts: ExitStack) -> None:
        self._space = f"nexus-{os.getpid()}"
        self.prefix = ("ip", "netns", "exec", self._space)
        _ip("netns", "add", self._space)
        parts.callback(_ip, "netns", "del", self._space)  # its cables go with it
        _ip("-n", self._space, "link", "set", "lo", "up")
        self._proxies = {
            server: parts.enter_context(closing(self._lay(server, number, upstream)))
            for number, (server, upstream) in enumerate(upstreams.items())
        }

    def address(self, server: str) -> tuple[str, int]:
        proxy = self._proxies[server]
        return proxy.host, proxy.port

    def cut(self, server: str) -> None:
        _ip("link", "set", _cable(server), "down")

    def mend(self, server: str) -> None:
        _ip("link", "set", _cable(server), "up")

    def replace(self, server: str) -> None:
        proxy = self._proxies[server]
        proxy.stall()
        time.sleep(ASKED_SECONDS)
        self.cut(server)
        proxy.cut()  # of which the far host hears nothing
        proxy.resume()
        self.mend(server)

    def _lay(self, server: str, number: int, upstream: Address) -> Proxy:
        here, there = (f"198.18.{number}.{host}" for host in (1, 2))  # for tests of networks
        _ip("link", "add", _cable(server), "type", "veth", "peer", "eth0", "netns", self._space)
        _ip("-n", self._space, "link", "set", "eth0", "name", server)
        _ip("addr", "add", f"{here}/24", "dev", _cable(server))
        _ip("link", "set", _cable(server), "up")
        _ip("-n", self._space, "addr", "add", f"{there}/24", "dev", server)
        _ip("-n", self._space, "link", "set", server, "up")
        return Proxy(upstream, host=here)


class Silence:
    """Where nobody may make namespaces: proxies that pass nothing on."""

    prefix = ()

    def __init__(self, upstreams: dict[str, Address], parts: ExitStack) -> None:
        self._proxies = {
            server: parts.enter_context(closing(Proxy(upstream)))
            for server, upstream in upstreams.items()
        }

    def address(self, server: str) -> tuple[str, int]:
        proxy = self._proxies[server]
        return proxy.host, proxy.port

    def cut(self, server: str) -> None:
        self._proxies[server].stall()

    def mend(self, server: str) -> None:
        self._proxies[server].resume()

    def replace(self, server: str) -> None:
        self._proxies[server].cut()  # which is not without a word, but all that can be done here


@contextmanager
def far_worker(built: Ground) -> Iterator[Ways]:
    """A worker called `far` that reaches Redis and the database by ways of its own."""
    upstreams = {"redis": built.redis.proxy.upstream, "database": built.database.proxy.upstream}
    with ExitStack() as parts:
        ways = _ways(upstreams, parts)
        host, port = ways.address("database")
        url = make_url(built.database.env["NEXUS_DATABASE__URL"]).set(host=host, port=port)
        redis_host, redis_port = ways.address("redis")
        env = {
            "NEXUS_DATABASE__URL": url.render_as_string(hide_password=False),
            "NEXUS_QUEUE__REDIS_URL": f"redis://{redis_host}:{redis_port}/0",
        }
        worker = built.stack.launch("worker", "--name", NAME, env=env, prefix=ways.prefix)
        parts.callback(_end, worker)
        yield ways


def _ways(upstreams: dict[str, Address], parts: ExitStack) -> Ways:
    with ExitStack() as laid:
        try:
            ways: Ways = Namespace(upstreams, laid)
        except OSError:
            laid.close()
            ways = Silence(upstreams, laid)
        parts.push(laid.pop_all())
        return ways


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()


def _cable(server: str) -> str:
    return f"nx-{server}"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr}")
