"""Disks that can be full."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from pathlib import Path
from typing import Final, Protocol

from nexus_jobs.chaos.fault import NothingToBreak
from nexus_jobs.chaos.stack import Stack

_SIZE: Final = 2 << 30
"""Bytes that fit; only those that are written take memory."""
_SLACKS: Final = [1 << 16, 1 << 18, 1 << 20, 1 << 22]
"""Bytes that are left over at each try to shrink."""


class Disk(Protocol):
    """Where the data folder lies."""

    def fill(self) -> None:
        """Let nothing more be written, or hardly anything.

        Raises:
            NothingToBreak
        """

    def free(self) -> None: ...


class SmallDisk:
    """A memory file system on a folder.

    Raises:
        OSError: we may not mount it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=0700", "tmpfs", str(folder))

    def fill(self) -> None:
        for slack in _SLACKS:  # others write while we measure
            state = os.statvfs(self._folder)
            with contextlib.suppress(OSError):
                self._resize((state.f_blocks - state.f_bfree) * state.f_frsize + slack)
                return
        raise NothingToBreak(f"{self._folder} is written too fast")

    def free(self) -> None:
        self._resize(_SIZE)

    def close(self) -> None:
        # lazily: whoever still has a file open there can close it later
        _run("umount", "--lazy", str(self._folder))

    def _resize(self, size: int) -> None:
        _run("mount", "-o", f"remount,size={size}", str(self._folder))


class Quota:
    """For who may not mount: a limit on the processes themselves, which writes no file either."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def fill(self) -> None:
        self._limit(0)

    def free(self) -> None:
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        for process in self._stack.family():
            with contextlib.suppress(ProcessLookupError):
                _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, most))


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError as error:
        raise OSError(f"there is no {command[0]} here") from error
    if done.returncode:
        raise OSError(done.stderr.strip())
