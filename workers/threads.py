"""Threads that a worker cannot do without."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

EX_SOFTWARE = 70
"""The exit status of sysexits.h for a bug."""


def vital_thread(name: str, run: Callable[[], None]) -> threading.Thread:
    """A thread that takes the process along when it dies of a bug.

    A worker that claims jobs and never ends them is worse than one that is gone: then its leases
    lapse and whoever supervises it starts another.
    """

    def guarded() -> None:
        try:
            run()
        except BaseException:
            log.exception("thread.died", thread=name)
            os._exit(EX_SOFTWARE)

    return threading.Thread(target=guarded, name=name, daemon=True)
