"""A disk of our own that can be full, where we may mount one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

_SIZE: Final = 2 << 30
"""Bytes that fit; only those that are written take memory."""


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
        """Let what is there be all that fits."""
        state = os.statvfs(self._folder)
        self._resize((state.f_blocks - state.f_bfree) * state.f_frsize)

    def free(self) -> None:
        self._resize(_SIZE)

    def close(self) -> None:
        # lazily: whoever still has a file open there can close it later
        _run("umount", "--lazy", str(self._folder))

    def _resize(self, size: int) -> None:
        _run("mount", "-o", f"remount,size={size}", str(self._folder))


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError as error:
        raise OSError(f"there is no {command[0]} here") from error
    if done.returncode:
        raise OSError(done.stderr.strip())
