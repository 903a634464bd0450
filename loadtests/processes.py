"""What the processes of a platform cost: processor seconds and memory, by role.

Read from /proc, so this needs Linux.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROLES: Final = {
    "valkey-server": "valkey",
    "postgres": "postgres",
    "\0api\0": "api",
    "\0scheduler\0": "scheduler",
    "\0up\0": "supervisor",
    "\0worker\0": "worker",
    "multiprocessing": "engine",
}
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_MB: Final = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, slots=True)
class Process:
    """One process; its processor seconds include those of children that have ended."""

    pid: int
    parent: int
    role: str
    cpu_seconds: float
    resident_mb: float


def family(*roots: int) -> list[Process]:
    """The processes with these ids, and all that descend from them."""
    running = {process.pid: process for process in _running()}
    members = set(roots) & running.keys()
    while children := {p.pid for p in running.values() if p.parent in members} - members:
        members |= children
    return [running[pid] for pid in sorted(members)]


def _running() -> Iterator[Process]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # the name in brackets before the fields may hold anything
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it has just ended
            continue
        yield Process(
            pid=int(folder.name),
            parent=int(fields[1]),
            role=role_of(command),
            cpu_seconds=sum(map(int, fields[11:15])) / _TICKS,
            resident_mb=int(fields[21]) * _PAGE_MB,
        )


def role_of(command: str) -> str:
    """What a process of the platform does, by its command line with zero bytes between words."""
    return next((role for mark, role in _ROLES.items() if mark in command), "other")


def cpu_by_role(*roots: int) -> Counter[str]:
    """Processor milliseconds so far, of these processes and all that descend from them."""
    used: Counter[str] = Counter()
    for process in family(*roots):
        used[process.role] += round(1000 * process.cpu_seconds)
    return used


@contextmanager
def peak_memory(*roots: int) -> Iterator[dict[str, float]]:
    """The most resident memory of a process of each role while the block runs, in MB."""
    peaks: dict[str, float] = {}
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.2):
            for process in family(*roots):
                peaks[process.role] = max(peaks.get(process.role, 0.0), process.resident_mb)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peaks
    finally:
        done.set()
        sampler.join()
