"""The entry point for a WSGI server: `granian --interface wsgi --factory api.wsgi:create`."""

from __future__ import annotations

import atexit

from flask import Flask

from api.app import create_app
from nexus_jobs.bootstrap import build_services
from nexus_jobs.config import load_settings
from nexus_jobs.telemetry import configure_logging


def create() -> Flask:
    configure_logging()
    services = build_services(load_settings())
    atexit.register(services.close)
    return create_app(services)
