"""The stores on SQLite or PostgreSQL."""

from __future__ import annotations

from nexus_jobs.adapters.database import Database
from nexus_jobs.adapters.sql_bulks import SqlBulks
from nexus_jobs.adapters.sql_fleet import SqlFleet
from nexus_jobs.adapters.sql_jobs import SqlJobs
from nexus_jobs.adapters.sql_keys import SqlKeys
from nexus_jobs.adapters.sql_leases import SqlLeases
from nexus_jobs.adapters.sql_models import SqlModels
from nexus_jobs.adapters.sql_routes import SqlRoutes
from nexus_jobs.adapters.sql_schedule import SqlSchedule


class SqlStore(SqlJobs, SqlKeys, SqlLeases, SqlBulks, SqlModels, SqlRoutes, SqlFleet, SqlSchedule):
    """All stores on one database whose schema is up to date.

    `pool_size` is the most connections it opens, but for a few that only write.
    Threads may share it; a process that forks must not have used it yet.

    Raises:
        ConfigError: the URL is not one of SQLite or PostgreSQL, or its driver is not installed.
    """

    def __init__(self, url: str, pool_size: int) -> None:
        self._database = Database(url, pool_size)

    def close(self) -> None:
        """Close the connections; the store can be used again and reopens them."""
        self._database.close()
