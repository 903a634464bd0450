"""The registry of models in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, func, insert, select, update

from nexus_jobs.adapters.database import Database, now
from nexus_jobs.adapters.sql_upsert import insert_or_lock, upsert
from nexus_jobs.adapters.tables import assignments, model_versions, models
from nexus_jobs.fleet import Measured, Origin, RegisteredModel, Wanted
from nexus_jobs.models import ModelConfig

_BY_PLACE = (models.c.origin != Origin.FILE, models.c.position, models.c.name)


class SqlModels:
    """The models' half of FleetStore."""

    _database: Database

    def sync_models(self, registered: Sequence[ModelConfig]) -> None:
        places = {model.name: place for place, model in enumerate(registered)}
        with self._database.write() as connection:
            gone = and_(models.c.origin == Origin.FILE, models.c.name.not_in(places))
            names = connection.scalars(delete(models).where(gone).returning(models.c.name)).all()
            connection.execute(delete(assignments).where(assignments.c.model.in_(names)))
            # one order for all, so that nobody deadlocks
            for model in sorted(registered, key=lambda model: model.name):
                _register(connection, model, Origin.FILE, places[model.name])

    def models(self) -> list[ModelConfig]:
        with self._database.read() as connection:
            configs = connection.scalars(select(models.c.config).order_by(*_BY_PLACE))
            return [ModelConfig.stored(config) for config in configs]

    def registered(self) -> list[RegisteredModel]:
        with self._database.read() as connection:
            rows = connection.execute(select(models).order_by(*_BY_PLACE)).all()
        return [to_registered(row) for row in rows]

    def register(self, model: ModelConfig, origin: Origin = Origin.API) -> RegisteredModel:
        with self._database.write() as connection:
            _register(connection, model, origin, place=0)
            return to_registered(connection.execute(_named(model.name)).one())

    def versions(self, name: str) -> list[tuple[int, float, ModelConfig]]:
        chosen = select(model_versions).where(model_versions.c.name == name)
        with self._database.read() as connection:
            rows = connection.execute(chosen.order_by(model_versions.c.version)).all()
        return [(row.version, row.registered_at, ModelConfig.stored(row.config)) for row in rows]

    def remove_model(self, name: str) -> bool:
        with self._database.write() as connection:
            connection.execute(delete(assignments).where(assignments.c.model == name))
            gone = delete(models).where(models.c.name == name)
            return connection.execute(gone).rowcount > 0

    def want(self, name: str, wanted: Wanted) -> RegisteredModel | None:
        return self._set(name, {"wanted": wanted})

    def note_measured(self, name: str, measured: Measured) -> None:
        self._set(name, {"measured": asdict(measured)})

    def _set(self, name: str, values: Mapping[str, Any]) -> RegisteredModel | None:
        changed = update(models).where(models.c.name == name).values(values).returning(models)
        with self._database.write_once() as connection:
            row = connection.execute(changed).one_or_none()
        return to_registered(row) if row else None


def to_registered(row: Row[Any]) -> RegisteredModel:
    return RegisteredModel(
        config=ModelConfig.stored(row.config),
        version=row.version,
        origin=Origin(row.origin),
        wanted=Wanted(row.wanted),
        registered_at=row.registered_at,
        measured=Measured(**row.measured) if row.measured else None,
    )


def _named(name: str) -> Any:
    return select(models).where(models.c.name == name)


def _register(connection: Connection, model: ModelConfig, origin: Origin, place: int) -> None:
    """Add a model or a version; what did not change keeps its number."""
    config = model.model_dump(mode="json")
    row = {"name": model.name, "position": place, "origin": origin}
    is_new = insert_or_lock(connection, models, {**row, "config": config})
    known = connection.execute(_named(model.name)).one()
    if not is_new and ModelConfig.stored(known.config) == model:
        upsert(connection, models, [{**row, "config": config}])
        return
    newest = select(func.coalesce(func.max(model_versions.c.version), 0))
    version = connection.scalars(newest.where(model_versions.c.name == model.name)).one() + 1
    # what was measured of an older version may be wrong for this one
    new = {"config": config, "version": version, "registered_at": now(connection)}
    upsert(connection, models, [{**row, **new, "measured": None}])
    connection.execute(insert(model_versions).values(name=model.name, **new))
