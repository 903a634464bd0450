"""What `nexus up` and `nexus migrate` make of a models file."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_jobs.adapters.sql_store import SqlStore
from nexus_jobs.bootstrap import prepare
from nexus_jobs.config import Settings
from nexus_jobs.errors import ConfigError
from nexus_jobs.route import Route


@pytest.fixture
def settings(url: str, tmp_path: Path) -> Settings:
    return Settings(models_file=tmp_path / "models.yaml", database={"url": url})


def test_the_routes_of_the_file_are_put_and_others_stay(settings: Settings) -> None:
    listed = "models: [{name: a}, {name: b}]\n"
    settings.models_file.write_text(listed + "routes: [{name: r, targets: [{model: a}]}]\n")
    prepare(settings)
    store = SqlStore(settings.database.url, pool_size=1)
    other = Route(name="other", targets=[{"model": "b"}])
    store.put_route(other)
    settings.models_file.write_text(listed + "routes: [{name: r, targets: [{model: b}]}]\n")
    prepare(settings)
    assert store.routes() == [other, Route(name="r", targets=[{"model": "b"}])]
    store.close()


def test_a_model_cannot_take_the_name_of_a_route(settings: Settings) -> None:
    settings.models_file.write_text("models: [{name: a}]\n")
    prepare(settings)
    store = SqlStore(settings.database.url, pool_size=1)
    store.put_route(Route(name="r", targets=[{"model": "a"}]))
    settings.models_file.write_text("models: [{name: a}, {name: r}]\n")
    with pytest.raises(ConfigError, match="r: there is a route of that name"):
        prepare(settings)
    assert [model.name for model in store.models()] == ["a"]
    store.close()
