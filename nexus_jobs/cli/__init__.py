"""The command `nexus`: the whole platform, its single roles, and a client for it."""

import sys


def main() -> None:
    """Run the command; Ctrl-C ends it quietly from the first moment on."""
    try:
        from nexus_jobs.cli.commands import run  # here, since it loads for a while

        run()
    except KeyboardInterrupt:
        sys.exit(130)
