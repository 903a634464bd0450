"""A TCP proxy that can go quiet, cut, forget or refuse, between the platform and a server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

_CHUNK: Final = 1 << 16
_CALL_SECONDS: Final = 10.0

Address = tuple[str, int] | Path
"""A host and a port, or a Unix socket."""
_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Listens on a free port and forwards to `upstream`, until told otherwise.

    It has a thread of its own; the methods may be called from any other.
    """

    def __init__(self, upstream: Address, host: str = "127.0.0.1") -> None:
        self.upstream = upstream
        self.host = host
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._flowing = _open_gate()
        """Every connection keeps to the gate that was there when it began."""
        self._connections: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._call(self._listen())

    def stall(self) -> None:
        """Pass nothing on, in either direction; connections stay open, and new ones open."""
        self._call(self._stall())

    def resume(self) -> None:
        """Pass on what has piled up, and go on."""
        self._call(self._resume())

    def forget(self) -> None:
        """Never pass anything on again for the connections that there are; new ones work."""
        self._call(self._forget())

    def cut(self) -> None:
        """Reset all connections; new ones are welcome."""
        self._call(self._cut())

    def refuse(self) -> None:
        """Reset all connections, and let nobody in."""
        self._call(self._refuse())

    def accept(self) -> None:
        """Listen again, on the same port."""
        self._call(self._listen())

    def close(self) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL_SECONDS)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stall(self) -> None:
        self._flowing.clear()

    async def _resume(self) -> None:
        self._flowing.set()

    async def _forget(self) -> None:
        self._flowing.clear()
        self._flowing = _open_gate()

    async def _cut(self) -> None:
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _refuse(self) -> None:
        self._server.close()
        await self._cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - the server makes one for each connection
        self._connections.add(task)
        try:
            await self._forward((reader, writer), self._flowing)
        except (OSError, asyncio.CancelledError):
            pass  # the server is away or we are cutting; the client sees a reset
        finally:
            _reset(writer)
            self._connections.discard(task)

    async def _forward(self, here: _Stream, flowing: asyncio.Event) -> None:
        """Pass bytes both ways until one side ends."""
        await flowing.wait()
        there = await self._connect()
        ways = ((here, there), (there, here))
        pumps = [asyncio.ensure_future(_pump(way[0][0], way[1][1], flowing)) for way in ways]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            _reset(there[1])

    async def _connect(self) -> _Stream:
        if isinstance(self.upstream, Path):
            return await asyncio.open_unix_connection(str(self.upstream))
        return await asyncio.open_connection(*self.upstream)


def _open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close without a farewell: one packet that is not sent again if it gets lost."""
    end = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            await flowing.wait()
            writer.write(data)
            await writer.drain()
