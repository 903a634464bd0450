"""Fixtures of the unit tests."""

import pytest

from tests.unit.memory_worker import Worker


@pytest.fixture
def start():
    workers = []

    def started(*arguments, **keywords):
        worker = Worker(*arguments, **keywords)
        worker.device.start()
        workers.append(worker)
        return worker

    yield started
    for worker in workers:
        worker.device.drain()
        worker.device.join()
