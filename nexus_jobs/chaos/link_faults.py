"""Faults of the network between the platform and a server."""

from __future__ import annotations

import random

from nexus_jobs.chaos.proxy import Proxy


class Blackholed:
    """Nothing comes through and nobody is told: sockets are open and silent."""

    seconds = (1.0, 8.0)

    def __init__(self, proxy: Proxy, server: str) -> None:
        self.name = f"{server} blackholed"
        self._proxy = proxy

    def inject(self, chance: random.Random) -> None:  # noqa: ARG002
        self._proxy.stall()

    def heal(self) -> None:
        self._proxy.resume()


class HalfOpen:
    """What is connected stays so and never hears anything again; new connections work."""

    seconds = (0.0, 0.0)

    def __init__(self, proxy: Proxy, server: str) -> None:
        self.name = f"{server} half-open"
        self._proxy = proxy

    def inject(self, chance: random.Random) -> None:  # noqa: ARG002
        self._proxy.forget()

    def heal(self) -> None:
        """The platform has to."""


class Cut:
    """All connections are reset, and new ones can be made at once."""

    seconds = (0.0, 0.0)

    def __init__(self, proxy: Proxy, server: str) -> None:
        self.name = f"{server} cut off"
        self._proxy = proxy

    def inject(self, chance: random.Random) -> None:  # noqa: ARG002
        self._proxy.cut()

    def heal(self) -> None:
        """The platform has to."""


class Away:
    """Connections are reset and new ones refused."""

    seconds = (1.0, 8.0)

    def __init__(self, proxy: Proxy, server: str) -> None:
        self.name = f"{server} away"
        self._proxy = proxy
        self._refusing = False

    def inject(self, chance: random.Random) -> None:  # noqa: ARG002
        self._refusing = True
        self._proxy.refuse()

    def heal(self) -> None:
        if self._refusing:
            self._proxy.accept()
        self._refusing = False
