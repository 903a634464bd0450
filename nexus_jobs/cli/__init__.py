"""The command `nexus`: the whole platform, its single roles, and a client for it."""

from __future__ import annotations

import errno
import os
import sys
from typing import Final, NoReturn

from nexus_jobs.errors import NexusError

_NOTHING_CAN_BE_WRITTEN: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def main() -> None:
    """Run the command; an error of ours, or of a file, becomes a sentence and exit code 1.

    Other errors are bugs and keep their traceback.
    """
    try:
        from nexus_jobs.cli.commands import app  # here, so that Ctrl-C is heard meanwhile

        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except NexusError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is not None:
            _fail(f"{error.filename}: {error.strerror}")
        if error.errno in _NOTHING_CAN_BE_WRITTEN:
            _fail(f"cannot write: {error.strerror}")
        raise
    finally:
        _end_output()


def _fail(message: str) -> NoReturn:
    from nexus_jobs.cli.output import say_error

    say_error(f"Error: {message}")
    sys.exit(1)


def _end_output() -> None:
    """Drop output that nobody takes; Python would try again and change the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
