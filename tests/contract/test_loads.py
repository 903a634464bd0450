"""What the workers' live reports promise."""

from __future__ import annotations

import pytest

from nexus_jobs.adapters.memory_loads import MemoryLoads
from nexus_jobs.adapters.redis_link import RedisLink
from nexus_jobs.adapters.redis_loads import RedisLoads
from nexus_jobs.fleet import Activity, ModelState, ServedModel, WorkerReport
from nexus_jobs.ports import LiveLoads

ACTIVITY = Activity(ended=3, failed=1, tokens=70, tokens_per_second=12.5)
MODELS = {"a": ServedModel(ModelState.READY, "onnx int8", running=3, slots=16, activity=ACTIVITY)}
REPORT = WorkerReport(id="w1", host="node", pid=1, device="cpu", models=MODELS, seen_at=5.0)


@pytest.fixture(params=["memory", "redis"])
def loads(request: pytest.FixtureRequest) -> LiveLoads:
    if request.param == "memory":
        return MemoryLoads()
    return RedisLoads(request.getfixturevalue("link"))


def test_the_latest_report_of_each_worker_is_there_until_it_is_dropped(loads: LiveLoads) -> None:
    other = WorkerReport(id="w0", host="node", pid=2, device="cuda:0", draining=True)
    loads.put(WorkerReport(id="w1", host="node", pid=1, device="cpu"))
    loads.put(REPORT)
    loads.put(other)
    assert list(loads.all().items()) == [("w0", other), ("w1", REPORT)]
    loads.drop("w1")
    assert loads.all() == {"w0": other}


def test_a_report_goes_away_by_itself(link: RedisLink) -> None:
    RedisLoads(link).put(REPORT)
    with link as client:
        assert 0 < client.pttl("nexus:load:w1") <= 5000


def test_what_cannot_be_read_is_left_out(link: RedisLink, dead_link: RedisLink) -> None:
    loads = RedisLoads(link)
    loads.put(REPORT)
    with link as client:
        client.set("nexus:load:w2", b'{"id": "of another version"}')
    assert list(loads.all()) == ["w1"]
    away = RedisLoads(dead_link)
    away.put(REPORT)
    away.drop("w1")
    assert away.all() == {}
