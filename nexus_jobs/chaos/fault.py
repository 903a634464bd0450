"""What can go wrong, as a small object that makes it happen and makes it good again."""

from __future__ import annotations

import random
from typing import Protocol


class NothingToBreak(Exception):
    """What the fault would break is not there at the moment."""


class Fault(Protocol):
    """One kind of trouble. `seconds` is how long it lasts, at least and at most."""

    name: str
    seconds: tuple[float, float]

    def inject(self, chance: random.Random) -> None:
        """
        Raises:
            NothingToBreak
        """

    def heal(self) -> None:
        """Make it good again; also called when `inject` has failed."""
