"""The supervisor against real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nexus_jobs.supervisor import Backoff, Child, Supervisor

QUICK = Backoff(first=0.05, ceiling=0.2, healthy_after=60.0)

STEADY = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + STEADY
POLITE = """
import signal, sys, time
def leave(*_):
    print("leaves", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGINT, leave)
print("up", flush=True)
time.sleep(60)
"""
SHORT_LIVED = "import sys; print('up', flush=True); sys.exit(3)"

STACK = """
import sys
from nexus_jobs.supervisor import Child, Supervisor

with Supervisor(lambda name, line: print(name, line, flush=True)) as supervisor:
    supervisor.start(Child(name="first", command=[sys.executable, "-c", sys.argv[1]]))
    supervisor.start(Child(name="second", command=[sys.executable, "-c", sys.argv[1]]))
    supervisor.watch()
"""


class Log:
    """What children printed, in order."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, name: str, line: str) -> None:
        self.lines.append((name, line))

    def count(self, name: str, line: str) -> int:
        return self.lines.count((name, line))


def child(name: str, code: str, *, drain: int = 0, grace: float = 10.0) -> Child:
    return Child(name=name, command=[sys.executable, "-c", code], drain=drain, grace=grace)


def within(seconds: float, condition: Callable[[], bool]) -> Callable[[], bool]:
    """A condition that fails the test when it has not come true in time."""
    deadline = time.monotonic() + seconds

    def checked() -> bool:
        assert time.monotonic() < deadline, "timed out"
        return condition()

    return checked


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    checked = within(seconds, condition)
    while not checked():
        time.sleep(0.02)


@pytest.fixture
def log() -> Log:
    return Log()


def test_each_line_carries_the_name_of_the_child_that_printed_it(log: Log) -> None:
    with Supervisor(log) as supervisor:
        supervisor.start(child("a", "print('one'); print('two', flush=True);" + STEADY))
        supervisor.start(child("b", "import sys; print('three', file=sys.stderr);" + STEADY))
        supervisor.watch(until=within(10, lambda: log.count("a", "up") + log.count("b", "up") == 2))
    assert [line for name, line in log.lines if name == "a"] == ["one", "two", "up"]
    assert ("b", "three") in log.lines


def test_a_child_that_dies_is_started_again(log: Log) -> None:
    with Supervisor(log, QUICK) as supervisor:
        supervisor.start(child("a", SHORT_LIVED))
        assert supervisor.watch(until=within(10, lambda: log.count("a", "up") >= 3))
    assert ("a", "ended with code 3; starts again in 0.05 s") in log.lines
    assert ("a", "ended with code 3; starts again in 0.1 s") in log.lines


def test_a_child_that_cannot_be_started_for_a_while_leaves_the_others_alone(
    log: Log, tmp_path: Path
) -> None:
    program, away = tmp_path / "program", tmp_path / "away"
    program.write_text("#!/bin/sh\necho up\nexit 3\n")
    program.chmod(0o700)
    with Supervisor(log, QUICK) as supervisor:
        supervisor.start(child("a", STEADY))
        supervisor.start(Child(name="b", command=[str(program)]))
        supervisor.watch(until=within(10, lambda: log.count("a", "up") + log.count("b", "up") >= 2))
        program.rename(away)
        in_vain = "could not be started"
        supervisor.watch(
            until=within(10, lambda: sum(line.startswith(in_vain) for _, line in log.lines) >= 2)
        )
        away.rename(program)
        before = log.count("b", "up")
        assert supervisor.watch(until=within(10, lambda: log.count("b", "up") > before))
    assert log.count("a", "up") == 1


def test_the_wait_before_a_start_grows_and_shrinks_back_after_a_healthy_while() -> None:
    backoff = Backoff(first=1, ceiling=5, healthy_after=30)
    waits = [0.0]
    for lived in (0, 0, 0, 0, 0, 31, 0):
        waits.append(backoff.after(waits[-1], lived))
    assert waits[1:] == [1, 2, 4, 5, 5, 1, 2]


def test_children_drain_in_their_order_and_each_waits_for_the_one_before(log: Log) -> None:
    slow = POLITE.replace('print("leaves"', 'time.sleep(0.3); print("leaves"')
    with Supervisor(log) as supervisor:
        supervisor.start(child("last", POLITE, drain=2))
        supervisor.start(child("first", slow, drain=0))
        supervisor.start(child("middle", slow, drain=1))
        supervisor.watch(until=within(10, lambda: len(log.lines) == 3))
    assert log.lines[3:] == [("first", "leaves"), ("middle", "leaves"), ("last", "leaves")]


def test_a_child_that_ignores_the_request_to_stop_is_killed_when_its_grace_is_over(
    log: Log,
) -> None:
    with Supervisor(log) as supervisor:
        supervisor.start(child("a", STUBBORN, grace=0.3))
        supervisor.watch(until=within(10, lambda: log.count("a", "up") == 1))
        began = time.monotonic()
    assert 0.3 <= time.monotonic() - began < 5
    assert log.lines[-1] == ("a", "did not stop in time and is killed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_watch(log: Log, number: signal.Signals) -> None:
    with Supervisor(log) as supervisor:
        supervisor.start(child("a", POLITE))
        supervisor.watch(until=within(10, lambda: log.count("a", "up") == 1))
        os.kill(os.getpid(), number)
        assert supervisor.watch(until=within(10, lambda: False)) is False
    assert log.lines[-1] == ("a", "leaves")


def test_a_second_signal_kills_what_is_still_draining(log: Log) -> None:
    with Supervisor(log) as supervisor:
        supervisor.start(child("a", STUBBORN, grace=60))
        supervisor.watch(until=within(10, lambda: log.count("a", "up") == 1))
        os.kill(os.getpid(), signal.SIGINT)
        began = time.monotonic()
        again = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT])
        again.start()
    assert time.monotonic() - began < 10
    assert log.lines[-1] == ("a", "did not stop in time and is killed")


def test_signal_handlers_are_put_back(log: Log) -> None:
    before = signal.getsignal(signal.SIGINT)
    with Supervisor(log):
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_children_go_on_when_nobody_can_read_what_they_print() -> None:
    printed = []

    def closed_pipe(name: str, line: str) -> None:
        printed.append(line)
        raise BrokenPipeError

    with Supervisor(closed_pipe, QUICK) as supervisor:
        supervisor.start(child("a", "print('one', flush=True);" + STEADY))
        assert supervisor.watch(until=within(10, lambda: printed == ["one", "up"]))


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A supervisor with two children, in a session of its own."""
    code = "import os; print('pid', os.getpid(), flush=True);" + STEADY
    with subprocess.Popen(
        [sys.executable, "-c", STACK, code],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


def children_of(stack: subprocess.Popen[str]) -> list[int]:
    """The pids that both children print."""
    assert stack.stdout is not None
    pids: list[int] = []
    while len(pids) < 2:
        line = stack.stdout.readline()
        assert line, "the supervisor ended early"
        if " pid " in line:
            pids.append(int(line.rsplit(" ", 1)[1]))
    return pids


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie; whoever inherits an orphan may never reap it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a child to its parent")
def test_killing_the_supervisor_takes_its_children_along(stack: subprocess.Popen[str]) -> None:
    pids = children_of(stack)
    stack.kill()
    stack.wait()
    wait_until(lambda: not any(runs(pid) for pid in pids))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_in_the_terminal_reaches_the_supervisor_and_not_its_children(
    stack: subprocess.Popen[str],
) -> None:
    pids = children_of(stack)
    assert all(os.getpgid(pid) != os.getpgid(stack.pid) for pid in pids)
    os.killpg(stack.pid, signal.SIGINT)
    assert stack.wait(timeout=10) == 0
    assert not any(runs(pid) for pid in pids)
