"""What the queue of a SQLite file's writers promises."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nexus_jobs.adapters.writer_queue import WriterQueue
from nexus_jobs.errors import StoreUnavailable
from tests.contract.stores import eventually


@contextmanager
def held(path: Path) -> Iterator[Callable[[], None]]:
    """The lock is with somebody else, until the block calls what it is given, or ends."""
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        yield lambda: fcntl.flock(other, fcntl.LOCK_UN)


def free(path: Path) -> bool:
    with path.open() as other:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def take_turn(queue: WriterQueue) -> str:
    with queue.turn():
        return "had it"


def test_a_writer_waits_for_another_process(tmp_path: Path) -> None:
    queue = WriterQueue(str(tmp_path / "w"), timeout=20)
    with held(tmp_path / "w") as release:
        threading.Timer(0.1, release).start()
        assert take_turn(queue) == "had it"
    assert free(tmp_path / "w")
    queue.close()


def test_a_writer_that_waits_in_vain_says_so(tmp_path: Path) -> None:
    queue = WriterQueue(str(tmp_path / "w"), timeout=0.05)
    with held(tmp_path / "w") as release:
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="another process"):
                take_turn(queue)
        release()
        eventually(lambda: free(tmp_path / "w"))
        assert take_turn(queue) == "had it"
    assert free(tmp_path / "w")
    queue.close()


def test_threads_wait_in_vain_for_a_thread_too(tmp_path: Path) -> None:
    queue = WriterQueue(str(tmp_path / "w"), timeout=0.05)
    with queue.turn():
        seen: list[Any] = []

        def work() -> None:
            with pytest.raises(StoreUnavailable):
                take_turn(queue)
            seen.append("refused")

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == ["refused"]
    queue.close()
