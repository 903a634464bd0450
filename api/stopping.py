"""Learns that this process is asked to stop, although the server handles the signals."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


def when_asked_to_stop(call: Callable[[], None]) -> None:
    """Have `call` called, on a thread of its own, each time SIGTERM or SIGINT comes in.

    The server sets its handlers when the application is made, and would overwrite ours. Python
    writes the number of every signal that has a handler to one pipe besides, whosever it is.

    Raises:
        ValueError: this is not the main thread.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)

    def listen() -> None:
        while number := os.read(reader, 1):
            if number[0] in (signal.SIGTERM, signal.SIGINT):
                call()

    threading.Thread(target=listen, name="stop listener", daemon=True).start()
