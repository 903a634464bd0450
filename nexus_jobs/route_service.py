"""What the API does with routes."""

from __future__ import annotations

from nexus_jobs.catalog import Catalog
from nexus_jobs.errors import InvalidRequest, NotFound
from nexus_jobs.ports import RouteStore
from nexus_jobs.route import Route, problems
from nexus_jobs.router import Router, Standing


class RouteService:
    """Add, look at and remove routes; what another process has changed is known at once."""

    def __init__(self, *, store: RouteStore, catalog: Catalog, router: Router) -> None:
        self._store = store
        self._catalog = catalog
        self._router = router

    def all(self) -> list[Route]:
        """In the order of their names; what they left out is filled in."""
        self._catalog.refresh()
        return list(self._catalog.routes().values())

    def get(self, name: str) -> Route:
        """The route, with what it left out.

        Raises:
            NotFound: there is none of that name.
        """
        self._catalog.refresh()
        route = self._catalog.routes().get(name)
        if route is None:
            raise NotFound(f"there is no route {name!r}")
        return route

    def put(self, route: Route) -> Route:
        """Add the route, or replace the one of its name.

        Raises:
            InvalidRequest: with a problem for each name in it that is wrong.
        """
        self._catalog.refresh()
        found = problems(route, self._catalog.models())
        if found:
            raise InvalidRequest(*found)
        self._store.put_route(route)
        return self.get(route.name)

    def remove(self, name: str) -> Route:
        """The route that was removed. Jobs that came by it run where they are.

        Raises:
            NotFound: there is none of that name.
        """
        route = self.get(name)
        self._store.remove_route(name)
        self._catalog.refresh()
        return route

    def standings(self, route: Route) -> dict[str, Standing]:
        """How each model of the route stands, as this process sees it; the targets first."""
        return self._router.standings(route)
