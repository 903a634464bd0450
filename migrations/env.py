"""Runs the migrations in the transaction that `nexus_jobs.adapters.schema` opens, under a lock.

They only go forward: to go back is to restore a backup.
"""

from alembic import context
from sqlalchemy import Connection, func, select, text

from nexus_jobs.adapters.tables import metadata

LOCK_KEY = 0x6E65787573  # "nexus"; the same for every process that migrates


def lock(connection: Connection) -> None:
    """Wait until no other process migrates; the transaction's end unlocks.

    On SQLite the transaction itself is that lock: it has begun as the only writer.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(LOCK_KEY)))
        # rather fail than have every query queue up behind a table that somebody holds
        connection.execute(text("SET LOCAL lock_timeout = '10s'"))


def run(connection: Connection) -> None:
    lock(connection)
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])
