"""How a worker's consumer comes to take the tickets of the models that are ready."""

import pytest
from celery import Celery

from workers.subscription import Subscription


class Consumer:
    """Does what it is told when its loop gets to it, or loses it with its connection."""

    def __init__(self):
        self.app = Celery()
        self.app.amqp.queues.deselect(list(self.app.amqp.queues.consume_from))
        self.connection = object()
        self._soon = []

    def call_soon(self, callback):
        self._soon.append(callback)

    def add_task_queue(self, queue):
        self.app.amqp.queues.select_add(queue)

    def cancel_task_queue(self, queue):
        self.app.amqp.queues.deselect(queue)

    def loop(self):
        due, self._soon = self._soon, []
        for callback in reversed(due):  # Celery keeps them in a set
            callback()

    def lose_connection(self):
        self._soon.clear()

    @property
    def queues(self):
        return set(self.app.amqp.queues.consume_from)


@pytest.fixture
def consumer():
    made = Consumer()
    yield made
    made.app.close()


def test_the_consumer_takes_from_the_queues_of_these_models_alone(consumer):
    subscription = Subscription(consumer)
    subscription.follow(["a", "b"])
    consumer.loop()
    assert consumer.queues == {"nexus.a", "nexus.b"}
    subscription.follow(["b", "c"])
    consumer.loop()
    assert consumer.queues == {"nexus.b", "nexus.c"}
    subscription.follow([])
    consumer.loop()
    assert consumer.queues == set()


def test_only_the_loop_of_the_consumer_changes_it_and_the_last_word_counts(consumer):
    subscription = Subscription(consumer)
    subscription.follow(["a"])
    subscription.follow(["b"])
    assert consumer.queues == set()
    consumer.loop()
    assert consumer.queues == {"nexus.b"}


def test_a_change_that_is_lost_with_a_connection_is_asked_for_again(consumer):
    subscription = Subscription(consumer)
    subscription.follow(["a"])
    consumer.lose_connection()
    subscription.follow(["a"])
    consumer.loop()
    assert consumer.queues == {"nexus.a"}


def test_a_consumer_that_starts_anew_takes_what_it_should(consumer):
    subscription = Subscription(consumer)
    subscription.follow(["a", "b"])
    consumer.loop()
    consumer.cancel_task_queue("nexus.a")
    subscription.start_anew()
    with pytest.raises(ConnectionError):
        consumer.loop()
    assert consumer.queues == {"nexus.a", "nexus.b"}


def test_a_consumer_without_a_connection_is_not_broken_off_again(consumer):
    consumer.connection = None
    Subscription(consumer).start_anew()
    consumer.loop()
