"""What every level of the result cache promises, and the levels together."""

from __future__ import annotations

import pytest

from nexus_jobs.adapters.memory_cache import MemoryCache
from nexus_jobs.adapters.memory_store import MemoryStore
from nexus_jobs.adapters.redis_cache import RedisCache
from nexus_jobs.adapters.redis_link import RedisLink
from nexus_jobs.caching import StoredResults, TieredCache
from nexus_jobs.job import Cached, FinishReason, NewJob, Outcome, Request, Result
from nexus_jobs.ports import ResultCache
from nexus_jobs.states import Event
from tests.e2e.stack import until


def result(text: str = "answer") -> Result:
    return Result(
        text=text, finish_reason=FinishReason.LENGTH, prompt_tokens=3, completion_tokens=5,
        prefill_ms=1.5, decode_ms=2.5,
    )  # fmt: skip


def make(kind: str, link: RedisLink, ttl: float) -> ResultCache:
    if kind == "redis":
        return RedisCache(link, ttl_seconds=ttl)
    return MemoryCache(max_bytes=1 << 20, ttl_seconds=ttl)


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_result_comes_back_as_it_was_put(kind, link):
    cache = make(kind, link, ttl=60)
    cache.put({"a": result("ä\x00\n"), "b": result("b")})
    assert cache.find(["a", "b", "c"]) == {"a": result("ä\x00\n"), "b": result("b")}


def test_a_result_goes_away_after_its_time(kind, link):
    cache = make(kind, link, ttl=0.05)
    cache.put({"a": result()})
    until(lambda: cache.find(["a"]) == {}, timeout=5)


def test_memory_is_bounded_and_forgets_the_least_used():
    cache = MemoryCache(max_bytes=10_000, ttl_seconds=60)
    cache.put({str(i): result("x" * 1000) for i in range(50)})
    assert 0 < len(cache.find([str(i) for i in range(50)])) < 10
    cache.put({"huge": result("x" * 100_000)})
    assert cache.find(["huge"]) == {}


def test_a_redis_that_is_away_has_nothing_and_hurts_nobody(dead_link):
    cache = RedisCache(dead_link, ttl_seconds=60)
    cache.put({"a": result()})
    assert cache.find(["a"]) == {}


@pytest.mark.parametrize(
    "value",
    [
        b"{",
        b"[]",
        b'"text"',
        b'{"text": "x"}',
        b'{"text": "x", "finish_reason": "bored"}',
        b'{"text": "x", "finish_reason": "stop", "thoughts": ""}',
    ],
)
def test_what_another_version_wrote_is_as_good_as_not_there(link, value):
    cache = RedisCache(link, ttl_seconds=60)
    cache.put({"a": result(), "b": result()})
    link.client.set("nexus:result:a", value)
    assert cache.find(["a", "b"]) == {"b": result()}


def test_the_nearest_level_answers_and_a_find_fills_the_nearer_ones(link):
    store = MemoryStore()
    new = NewJob(id="j", request=Request(model="m", prompt="p"), slack=0, fingerprint="f")
    store.add([new])
    (job,) = store.claim("m", 1, worker="w", lease_seconds=60)
    done = Outcome(lease=job.lease, event=Event.SUCCEED, result=result(), fingerprint="f")
    store.finish([done])

    def levels():
        memory = MemoryCache(max_bytes=1 << 20, ttl_seconds=60)
        shared = RedisCache(link, ttl_seconds=60)
        return TieredCache([memory, shared, StoredResults(store, 60)])

    first, second = levels(), levels()
    assert first.find(["f", "unknown"]) == {"f": (result(), Cached.DATABASE)}
    assert first.find(["f"])["f"][1] is Cached.MEMORY
    assert second.find(["f"])["f"][1] is Cached.REDIS
