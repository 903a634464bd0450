"""What signals between processes promise."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from nexus_jobs.adapters import redis_signals
from nexus_jobs.adapters.memory_queue import MemorySignals
from nexus_jobs.adapters.redis_link import RedisLink
from nexus_jobs.adapters.redis_signals import LONGEST_TEXT, RedisSignals
from nexus_jobs.chaos.proxy import Proxy
from nexus_jobs.job import FinishReason, Result
from nexus_jobs.ports import Channel, Ending
from nexus_jobs.states import State
from tests.e2e.stack import until


@pytest.fixture(params=["memory", "redis"])
def signals(request, link):
    made = MemorySignals() if request.param == "memory" else RedisSignals(link)
    yield made
    made.close()


def sent_until_heard(signals, channel, ids, heard):
    """A listener needs a moment to subscribe, and hints are not repeated by themselves."""

    def attempt():
        signals.send(channel, dict.fromkeys(ids))
        return heard

    until(attempt, timeout=10)


def test_what_is_sent_is_heard_by_every_listener_of_the_channel(signals):
    one, two, other = [], [], []
    signals.listen(Channel.ENDED, one.append)
    signals.listen(Channel.ENDED, two.append)
    signals.listen(Channel.CANCELLED, other.append)
    sent_until_heard(signals, Channel.ENDED, ["a", "b"], one)
    until(lambda: two, timeout=5)
    assert list(one[0]) == list(two[0]) == ["a", "b"]
    assert other == []


def test_nothing_is_sent_about_no_job(signals):
    heard = []
    signals.listen(Channel.ENDED, heard.append)
    sent_until_heard(signals, Channel.ENDED, ["a"], heard)
    count = len(heard)
    signals.send(Channel.ENDED, {})
    sent_until_heard(signals, Channel.ENDED, ["b"], heard[count:] or heard)
    assert all(ids for ids in heard)


def test_a_redis_that_is_away_hurts_no_sender(dead_link):
    RedisSignals(dead_link).send(Channel.ENDED, {"a": None})


def test_a_garbled_signal_silences_nobody(link):
    signals = RedisSignals(link)
    heard = []
    signals.listen(Channel.ENDED, heard.append)
    sent_until_heard(signals, Channel.ENDED, ["before"], heard)
    link.client.publish("nexus:signal:ended", "not json")
    heard.clear()
    sent_until_heard(signals, Channel.ENDED, ["after"], heard)
    signals.close()


def test_many_ids_arrive_in_messages_of_a_bounded_size(link):
    signals = RedisSignals(link)
    heard = []
    signals.listen(Channel.ENDED, heard.append)
    sent_until_heard(signals, Channel.ENDED, ["first"], heard)
    heard.clear()
    ids = [str(number) for number in range(2500)]
    signals.send(Channel.ENDED, dict.fromkeys(ids))
    until(lambda: "2499" in {job_id for message in heard for job_id in message}, timeout=10)
    assert max(map(len, heard)) == 250
    signals.close()


def test_an_ending_arrives_as_it_was_sent(signals):
    heard = []
    signals.listen(Channel.ENDED, heard.append)
    hints = {"a": ending("short"), "b": None}
    until(lambda: signals.send(Channel.ENDED, hints) or heard, timeout=10)
    assert heard[0] == hints


def test_a_long_answer_is_left_to_its_row(link):
    signals = RedisSignals(link)
    heard = []
    signals.listen(Channel.ENDED, heard.append)
    hints = {"a": ending("x" * (LONGEST_TEXT + 1))}
    until(lambda: signals.send(Channel.ENDED, hints) or heard, timeout=10)
    assert heard[0] == {"a": replace(hints["a"], result=None)}
    assert not heard[0]["a"].whole
    signals.close()


def ending(text: str) -> Ending:
    result = Result(
        text=text, finish_reason=FinishReason.LENGTH, prompt_tokens=1, completion_tokens=2
    )
    return Ending(
        model="m",
        state=State.SUCCEEDED, attempt=2, started_at=1.25, finished_at=2.5, worker="w",
        result=result,
    )  # fmt: skip


def test_listening_goes_on_after_the_connection_was_cut(link):
    signals = RedisSignals(link)
    heard = []
    signals.listen(Channel.ENDED, heard.append)
    sent_until_heard(signals, Channel.ENDED, ["before"], heard)
    for client in link.client.client_list(_type="pubsub"):
        link.client.client_kill_filter(_id=client["id"])
    heard.clear()
    sent_until_heard(signals, Channel.ENDED, ["after"], heard)
    assert list(heard[-1]) == ["after"]
    signals.close()


@pytest.fixture
def impatient(monkeypatch):
    for name, seconds in (("ASK", 0.05), ("DEAF", 0.2), ("RECONNECT", 0.01)):
        monkeypatch.setattr(redis_signals, f"{name}_SECONDS", seconds)


@pytest.mark.usefixtures("impatient")
def test_listening_goes_on_after_the_connection_was_forgotten(valkey, link):
    with closing(Proxy(("127.0.0.1", valkey.port))) as proxy:
        signals, heard = RedisSignals(RedisLink(f"redis://127.0.0.1:{proxy.port}/0")), []
        signals.listen(Channel.ENDED, heard.append)
        sender = RedisSignals(link)
        sent_until_heard(sender, Channel.ENDED, ["before"], heard)
        proxy.forget()
        heard.clear()
        sent_until_heard(sender, Channel.ENDED, ["after"], heard)
        signals.close()


@pytest.mark.usefixtures("impatient")
def test_a_connection_on_which_nothing_is_said_is_kept(link):
    signals = RedisSignals(link)
    signals.listen(Channel.ENDED, lambda _: None)

    def listeners():
        return {one["id"]: int(one["age"]) for one in link.client.client_list(_type="pubsub")}

    (first,) = until(listeners, timeout=5)
    until(lambda: listeners()[first] >= 2, timeout=5)
    signals.close()


def test_listening_begins_when_redis_comes_back(valkey, link):
    signals = RedisSignals(link)
    heard = []
    valkey.stop()
    signals.listen(Channel.ENDED, heard.append)
    valkey.start()
    sent_until_heard(signals, Channel.ENDED, ["a"], heard)
    signals.close()
