"""How to reach this machine over HTTP."""

from __future__ import annotations

from typing import Final

DIRECT: Final = {f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")}
"""Mounts of an httpx client: not through a proxy, even where the environment names one."""
