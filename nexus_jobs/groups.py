"""Work that is cheaper together: all that arrives while one group is handled shares the next."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from nexus_jobs.errors import StoreUnavailable

T = TypeVar("T")
R = TypeVar("R")


class Groups(Generic[T]):
    """A queue that one thread empties, a group at a time, in order and without delay.

    That thread is whoever calls `run`, or one that `start` starts. `handle` gets every item
    once and must not raise.
    """

    def __init__(self, name: str, handle: Callable[[list[T]], None]) -> None:
        self._name = name
        self._handle = handle
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, item: T) -> None:
        self._queue.put(item)

    def start(self) -> None:
        """Run on a thread of its own."""
        self._thread = threading.Thread(target=self.run, name=self._name, daemon=True)
        self._thread.start()

    def run(self) -> None:
        """Handle group after group until `stop`."""
        open_ended = True
        while open_ended:
            group = [self._queue.get()]
            while not self._queue.empty():
                group.append(self._queue.get())
            items = [item for item in group if item is not None]
            open_ended = len(items) == len(group)
            if items:
                self._handle(items)

    def stop(self) -> None:
        """Let `run` end after all that was put before; does not wait for it."""
        self._queue.put(None)

    def close(self) -> None:
        """Stop, and wait for the thread that `start` started."""
        self.stop()
        if self._thread is not None:
            self._thread.join()


def in_parts(
    items: Sequence[T], do: Callable[[Sequence[T]], R]
) -> Iterator[tuple[Sequence[T], R | Exception]]:
    """Do it for all at once; where that fails, for each half by itself, so a bad one fails alone.

    `do` does it for all that it is given, or for none. Gives each part with what `do` returned or
    raised. A database that is away is away for every part, so that then nothing is halved.
    """
    done: R | Exception
    try:
        done = do(items)
    except Exception as error:
        done = error
    if isinstance(done, Exception) and len(items) > 1 and not isinstance(done, StoreUnavailable):
        middle = len(items) // 2
        yield from in_parts(items[:middle], do)
        yield from in_parts(items[middle:], do)
    else:
        yield items, done
