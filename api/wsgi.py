"""The entry point for a WSGI server: `granian --interface wsgi --factory api.wsgi:create`."""

from __future__ import annotations

import gc
from multiprocessing.util import Finalize

from flask import Flask

from api.app import create_app
from api.stopping import when_asked_to_stop
from nexus_jobs.bootstrap import build_services
from nexus_jobs.config import load_settings
from nexus_jobs.telemetry import configure_logging


def create() -> Flask:
    """The application on the real services.

    Raises:
        ConfigError: the settings cannot be used.
    """
    configure_logging()
    services = build_services(load_settings())
    # The server's workers are forked, and a forked child leaves without running `atexit`.
    Finalize(None, services.close, exitpriority=0)
    when_asked_to_stop(services.watch.close)
    app = create_app(services)
    # All of this stays, so the garbage collector need not look through it while requests wait.
    gc.collect()
    gc.freeze()
    return app
