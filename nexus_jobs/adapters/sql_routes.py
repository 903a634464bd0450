"""Routes in SQL, and queued jobs that change from one of a route's models to another."""

from __future__ import annotations

from sqlalchemy import delete, select, true, update

from nexus_jobs.adapters.database import Database
from nexus_jobs.adapters.sql_transitions import pick
from nexus_jobs.adapters.sql_upsert import upsert
from nexus_jobs.adapters.tables import is_state, jobs, models, routes
from nexus_jobs.errors import Conflict
from nexus_jobs.route import Route
from nexus_jobs.states import Event, State


class SqlRoutes:
    """RouteStore, and the part of JobStore that changes models."""

    _database: Database

    def routes(self) -> list[Route]:
        with self._database.read() as connection:
            configs = connection.scalars(select(routes.c.config).order_by(routes.c.name))
            return [Route.stored(config) for config in configs]

    def put_route(self, route: Route) -> None:
        # what was left out stays open, for the settings to decide
        config = route.model_dump(mode="json", exclude_unset=True)
        with self._database.write() as connection:
            namesake = select(models.c.name).where(models.c.name == route.name)
            if connection.execute(namesake).first():
                raise Conflict(f"{route.name!r} is a model; a route needs another name")
            upsert(connection, routes, [{"name": route.name, "config": config}])

    def remove_route(self, name: str) -> bool:
        with self._database.write() as connection:
            return connection.execute(delete(routes).where(routes.c.name == name)).rowcount > 0

    def reroute(
        self, route: str, model: str, to: str, *, at_most: int, reproducible: bool = False
    ) -> int:
        may_move = true() if reproducible else ~jobs.c.reproducible
        theirs = (jobs.c.model == model) & (jobs.c.route == route) & may_move
        free = pick(Event.CLAIM, theirs, at_most=at_most, skip_locked=True)
        statement = (
            update(jobs)
            .where(jobs.c.id.in_(select(free.c.id)), is_state([State.QUEUED]))
            .values(model=to, fingerprint=None)
            .returning(jobs.c.id)
        )
        with self._database.write() as connection:
            return len(connection.scalars(statement).all())
