"""Fixtures of the unit tests."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

import nexus_jobs.cli.commands  # noqa: F401 - loads them before a test replaces a part of one
from nexus_jobs import cli
from nexus_jobs.bootstrap import Services, build_memory_services
from nexus_jobs.models import ModelConfig
from tests.unit.memory_services import MODEL
from tests.unit.memory_worker import Worker
from tests.unit.scripted_server import Script, serving


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


@pytest.fixture
def server() -> Iterator[Script]:
    with serving() as script:
        yield script


@pytest.fixture
def nexus(server: Script, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command against the script; its exit code."""
    monkeypatch.setenv("NEXUS_URL", server.url)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["nexus", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return run
