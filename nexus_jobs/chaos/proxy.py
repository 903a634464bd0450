"""A TCP proxy that can go quiet, close, or refuse, between the platform and a server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

_CHUNK: Final = 1 << 16
_CALL_SECONDS: Final = 10.0

Address = tuple[str, int] | Path
"""A host and a port, or a Unix socket."""


class Proxy:
    """Listens on a free port and forwards to `upstream`, until told otherwise.

    It has a thread of its own; the methods may be called from any other.
    """

    def __init__(self, upstream: Address, host: str = "127.0.0.1") -> None:
        self._upstream = upstream
        self._host = host
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._call(self._listen())

    def stall(self) -> None:
        """Pass nothing on, in either direction; connections stay open, and new ones open."""
        self._call(self._set_flowing(on=False))

    def resume(self) -> None:
        """Pass on what has piled up, and go on."""
        self._call(self._set_flowing(on=True))

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
        self._call(self._refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL_SECONDS)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _set_flowing(self, *, on: bool) -> None:
        if on:
            self._flowing.set()
        else:
            self._flowing.clear()

    async def _cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _refuse(self) -> None:
        self._server.close()
        await self._cut()
        while self._open:  # their tasks are about to see it
            self._flowing.set()
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await self._flowing.wait()
            there = await self._connect()
            self._open.add(there[1])
            try:
                await self._join((reader, writer), there)
            finally:
                self._open.discard(there[1])
                there[1].transport.abort()
        except OSError:
            pass  # the server is away, which the client sees as a reset
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._upstream, Path):
            return await asyncio.open_unix_connection(str(self._upstream))
        return await asyncio.open_connection(*self._upstream)

    async def _join(
        self,
        here: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Pass bytes both ways until one side ends."""
        pumps = [
            asyncio.ensure_future(self._pump(here[0], there[1])),
            asyncio.ensure_future(self._pump(there[0], here[1])),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
