"""Fixtures of the unit tests."""

from collections.abc import Iterator

import pytest

from nexus_jobs.bootstrap import Services, build_memory_services
from nexus_jobs.models import ModelConfig
from tests.unit.memory_services import MODEL
from tests.unit.memory_worker import Worker


@pytest.fixture
def start():
    workers = []

    def started(*arguments, before=None, **keywords):
        worker = Worker(*arguments, **keywords)
        if before:
            before(worker)
        worker.device.start()
        workers.append(worker)
        return worker

    yield started
    for worker in workers:
        worker.device.drain()
        worker.device.join()


@pytest.fixture
def services() -> Iterator[Services]:
    """In memory, for a model that is here and one that is not."""
    built = build_memory_services([MODEL, ModelConfig(name="smollm2-135m")])
    yield built
    built.close()
