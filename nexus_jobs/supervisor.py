"""Keeps child processes running together, relays what they print, and drains them in order."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, sleep
from types import FrameType, TracebackType
from typing import Final

Emit = Callable[[str, str], None]
"""Takes a child's name and a line that it printed; may be called from any thread."""

_TICK: Final = 0.1
_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None)  # loaded here because nothing may be loaded between fork and exec


def die_with_parent(parent: int, signum: signal.Signals = signal.SIGTERM) -> None:
    """Have Linux send this process `signum` when the thread that started it ends.

    `parent` is the pid that is expected to be the parent: one that has ended before this call
    can send no signal any more. Other systems have no such call.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, int(signum))
        if os.getppid() != parent:
            os.kill(os.getpid(), signum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A process to keep running.

    Those with the lowest `drain` are stopped first and together, the next when they have ended.
    `grace` is the seconds one has between SIGTERM and SIGKILL.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    drain: int = 0
    grace: float = 10.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds to wait before a start: doubled from `first` to `ceiling` while a child keeps dying,
    and back to `first` once it has lived for `healthy_after`."""

    first: float = 0.5
    ceiling: float = 30.0
    healthy_after: float = 30.0

    def after(self, previous: float, lived: float) -> float:
        if not previous or lived >= self.healthy_after:
            return self.first
        return min(2 * previous, self.ceiling)


class _Running:
    """One child: its present process, and when to start the next one after that has died."""

    def __init__(self, child: Child, emit: Emit) -> None:
        self.child = child
        self._emit = emit
        self._wait = 0.0
        self._due = 0.0
        self.start()

    def start(self) -> None:
        self._due = 0.0
        self._started = monotonic()
        self._process = subprocess.Popen(  # noqa: S603
            self.child.command,
            env={**os.environ, **self.child.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the terminal's Ctrl-C is for the supervisor alone
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        self._reader = threading.Thread(target=self._relay, args=[self._process], daemon=True)
        self._reader.start()

    def _relay(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - Popen was given a pipe
        with process.stdout as lines:
            for line in lines:
                self._emit(self.child.name, line.decode(errors="replace").rstrip())

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def revive(self, backoff: Backoff) -> None:
        """Start a dead process again, at the moment the backoff allows."""
        if self.alive:
            return
        if not self._due:
            self._rest(backoff, monotonic() - self._started, self._ending())
        elif monotonic() >= self._due:
            try:
                self.start()
            except OSError as error:  # no memory, too many processes, a program being replaced
                self._rest(backoff, 0.0, f"could not be started ({error})")

    def _rest(self, backoff: Backoff, lived: float, why: str) -> None:
        self._wait = backoff.after(self._wait, lived)
        self._due = monotonic() + self._wait
        self._emit(self.child.name, f"{why}; starts again in {self._wait:g} s")

    def _ending(self) -> str:
        code = self._process.returncode
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    def terminate(self) -> None:
        self._process.terminate()

    def end(self, since: float, hurried: Callable[[], bool]) -> None:
        """Wait until the process has ended; when its grace is over, or we are hurried, kill it and
        what it started."""
        while self.alive and monotonic() < since + self.child.grace and not hurried():
            sleep(_TICK)
        if self.alive:
            self._emit(self.child.name, "did not stop in time and is killed")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join(timeout=1.0)


class Supervisor:
    """Runs children until it is asked to stop; use it as a context manager from the main thread.

    Leaving the context drains. The first SIGINT, SIGTERM or SIGHUP asks for that; the second one
    kills what is still there. Children of a supervisor that is itself killed get SIGTERM.
    """

    def __init__(self, emit: Emit, backoff: Backoff | None = None) -> None:
        self.emit = _one_at_a_time(emit)
        self._backoff = backoff or Backoff()
        self._running: list[_Running] = []
        self._leaving: list[tuple[_Running, float]] = []
        """Those that were let go, and when (monotonic seconds)."""
        self._asked = 0
        """How often we were asked to stop. Not an Event: setting one inside a signal handler can
        deadlock with the wait that the signal interrupted."""

    def __enter__(self) -> Supervisor:
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self._handlers = {number: signal.signal(number, self._on_signal) for number in signals}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._drain()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked += 1

    def start(self, child: Child) -> None:
        """Start a child and keep it running. Call this from the main thread: children are tied to
        the thread that starts them."""
        self._running.append(_Running(child, self.emit))

    def let_go(self, name: str) -> None:
        """Have a child drain and end while the others go on."""
        (chosen,) = (running for running in self._running if running.child.name == name)
        self._running.remove(chosen)
        chosen.terminate()
        self._leaving.append((chosen, monotonic()))

    def watch(self, until: Callable[[], bool] = lambda: False) -> bool:
        """Restart what dies until `until()` is true; False if asked to stop before that."""
        while not self._asked:
            for running in self._running:
                running.revive(self._backoff)
            self._see_off()
            if until():
                return True
            sleep(_TICK)
        return False

    def _see_off(self) -> None:
        """End those that were let go and have ended, or whose grace is over."""
        for leaving, since in self._leaving:
            if not leaving.alive or monotonic() >= since + leaving.child.grace:
                leaving.end(since, hurried=lambda: False)
        self._leaving = [(leaving, since) for leaving, since in self._leaving if leaving.alive]

    def _drain(self) -> None:
        for leaving, since in self._leaving:
            leaving.end(since, hurried=lambda: self._asked > 1)
        for order in sorted({running.child.drain for running in self._running}):
            group = [running for running in self._running if running.child.drain == order]
            since = monotonic()
            for running in group:
                running.terminate()
            for running in group:
                running.end(since, hurried=lambda: self._asked > 1)


def _one_at_a_time(emit: Emit) -> Emit:
    lock = threading.Lock()

    def locked(name: str, line: str) -> None:
        # A reader of our output that has gone (`nexus up | head`) must not stop the children.
        with lock, contextlib.suppress(OSError, ValueError):
            emit(name, line)

    return locked
