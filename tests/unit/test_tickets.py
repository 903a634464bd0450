"""Which tickets wait in a worker, and for how long."""

from types import SimpleNamespace

import pytest

from workers.tickets import Tickets


class Message:
    """What kombu hands to a strategy."""

    def __init__(self, payload):
        self.headers, self._payload, self.acknowledged = {"id": "1"}, payload, 0

    @property
    def payload(self):
        if isinstance(self._payload, Exception):
            raise self._payload
        return self._payload

    def ack_log_error(self, log, errors):
        self.acknowledged += 1


class Consumer:
    """Celery's, as far as a strategy needs it; nobody listens to its events."""

    connection_errors, event_dispatcher = (), None

    def __init__(self):
        self.timer, self.soon = SimpleNamespace(call_after=lambda *_: None), []

    def call_soon(self, call):
        self.soon.append(call)


class Here:
    """Tickets of a worker whose batches are full, or not; time passes when told."""

    def __init__(self, of_a_model=2, of_all=3, full=True):
        self.full = full
        self.announced, self.gone, self.timers, self._let_go = [], [], [], {}
        self.tickets = Tickets(self._announce, of_a_model=of_a_model, of_all=of_all, patience=1.0)

    def _announce(self, model, count, let_go):
        self.announced.append((model, count))
        self._let_go[len(self.announced)] = let_go
        return self.full

    def take(self, model):
        number = len(self.announced) + 1
        later = lambda seconds, call: self.timers.append((seconds, call))  # noqa: E731
        return self.tickets.take(model, 5, lambda: self.gone.append(number), later)

    def answer(self, number):
        self._let_go[number]()

    def pass_by(self):
        assert {seconds for seconds, _ in self.timers} <= {1.0}
        for _, call in self.timers:
            call()


def test_the_jobs_of_a_ticket_are_announced_as_it_comes_in():
    here = Here()
    here.take("m")
    assert here.announced == [("m", 5)]


def test_a_ticket_waits_only_where_a_batch_is_full():
    here = Here(full=False)
    assert not here.take("m")
    assert (here.tickets.waiting, here.gone) == (0, [])
    here.full = True
    assert here.take("m")
    assert here.tickets.waiting == 1
    assert here.tickets.taken == 2


def test_a_ticket_is_let_go_once_when_its_jobs_are_claimed():
    here = Here()
    here.take("m")
    here.take("m")
    here.answer(1)
    here.answer(1)
    assert (here.tickets.waiting, here.gone) == (1, [1])


@pytest.mark.parametrize(
    ("models", "surplus"),
    [("mmm", {3}), ("mmno", {4}), ("mno", set()), ("mmmm", {3, 4})],
    ids=["of a model", "of all", "room for all", "two too many"],
)
def test_a_full_model_keeps_its_tickets_from_others_only_for_a_while(models, surplus):
    here = Here()
    assert all(here.take(model) for model in models)
    assert here.gone == []
    here.pass_by()
    assert set(here.gone) == surplus
    for number in range(1, len(models) + 1):
        here.answer(number)
    assert sorted(here.gone) == list(range(1, len(models) + 1))
    assert here.tickets.waiting == 0


@pytest.mark.parametrize(
    "payload",
    [[["m", "many"], {}, {}], [["m", -5], {}, {}], [], "m", None, TypeError("unhashable")],
    ids=["no number", "less than none", "empty", "text", "nothing", "unreadable"],
)
def test_what_is_no_ticket_is_acknowledged_and_forgotten(payload):
    here, message = Here(), Message(payload)
    here.tickets.strategy(Consumer())(message)
    assert (message.acknowledged, here.announced, here.tickets.waiting) == (1, [], 0)


def test_a_ticket_that_waited_is_acknowledged_on_the_consumers_own_thread():
    here, consumer, message = Here(), Consumer(), Message([["m", 5], {}, {}])
    here.tickets.strategy(consumer)(message, None, None, None, None)
    assert (message.acknowledged, here.tickets.waiting) == (0, 1)
    here.answer(1)
    assert (message.acknowledged, here.tickets.waiting) == (0, 0)
    consumer.soon.pop()()
    assert message.acknowledged == 1


def test_a_new_connection_begins_without_tickets():
    here = Here()
    here.take("m")
    here.tickets.strategy(Consumer())
    assert here.tickets.waiting == 0
    here.answer(1)
    assert here.gone == []
