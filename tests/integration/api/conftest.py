"""The API around services that live in memory, and a hand that plays the worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.app import create_app
from nexus_jobs import fleet_view
from nexus_jobs.bootstrap import Platform, Services, connect_memory, services_on
from nexus_jobs.config import Settings, load_settings
from nexus_jobs.job import FinishReason, Job, JobError, Outcome, Result
from nexus_jobs.models import ModelConfig
from nexus_jobs.ports import Channel
from nexus_jobs.states import Event

Finish = Callable[..., list[Job]]


MODELS = [
    ModelConfig(name="simulated", type="simulated", max_sequence_length=512),
    ModelConfig(name="smollm2-135m", max_batch_size=32),
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """With an empty model root of its own, and a server that may be an upstream."""
    return load_settings(model_root=tmp_path / "models", server={"upstreams": ["http://gpu1:8000"]})


@pytest.fixture
def platform(settings: Settings) -> Platform:
    return connect_memory(MODELS, settings)


@pytest.fixture
def services(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    monkeypatch.setattr(fleet_view, "KEPT_SECONDS", 0.0)
    services = services_on(platform)
    yield services
    services.close()


@pytest.fixture
def app(services: Services) -> Flask:
    return create_app(services)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def finish(services: Services) -> Finish:
    """Run what is queued as a worker would: the answer is the prompt in capitals."""

    def finish(event: Event = Event.SUCCEED, limit: int = 100) -> list[Job]:
        jobs = services.platform.store.claim("simulated", limit, worker="w1", lease_seconds=60)
        services.platform.store.finish([_outcome(job, event) for job in jobs])
        services.platform.signals.send(Channel.ENDED, {job.id: None for job in jobs})
        return jobs

    return finish


def _outcome(job: Job, event: Event) -> Outcome:
    if event is not Event.SUCCEED:
        return Outcome(lease=job.lease, event=event, error=JobError("engine_error", "it broke"))
    result = Result(
        text=(job.request.prompt or "").upper(),
        finish_reason=FinishReason.STOP,
        prompt_tokens=4,
        completion_tokens=2,
        prefill_ms=1.5,
        decode_ms=2.5,
    )
    return Outcome(lease=job.lease, event=event, result=result, fingerprint=job.fingerprint)
