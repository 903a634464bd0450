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

    A signal may reach any thread, but its handler runs on the main one, which waits inside the
    server and would not learn of it; so that thread is woken.

    Raises:
        ValueError: this is not the main thread.
    """
    main = threading.get_ident()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGURG, lambda *_: None)  # nothing else uses it

    def listen() -> None:
        while number := os.read(reader, 1):
            if number[0] in (signal.SIGTERM, signal.SIGINT):
                signal.pthread_kill(main, signal.SIGURG)
                call()

    threading.Thread(target=listen, name="stop listener", daemon=True).start()
