"""Requests with the same answer share a fingerprint, equal ones a digest; others never do."""

import hashlib
from dataclasses import replace

import pytest

from nexus_jobs.fingerprint import digest, fingerprint
from nexus_jobs.job import Message, Request, SamplingParams
from nexus_jobs.models import ModelConfig, Preprocessing

MODEL = ModelConfig(name="m")
REQUEST = Request(model="m", prompt="What is a queue?")


def test_equal_requests_share_a_fingerprint():
    assert fingerprint(REQUEST, MODEL) == fingerprint(replace(REQUEST), MODEL)


@pytest.mark.parametrize(
    "same", [{"priority": 0}, {"expires_in": 9.0}, {"metadata": {"a": 1}}, {"use_cache": False}]
)
def test_what_does_not_change_the_answer_does_not_count(same):
    assert fingerprint(replace(REQUEST, **same), MODEL) == fingerprint(REQUEST, MODEL)


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "What is a queue? "},
        {"prompt": None, "messages": (Message("user", "What is a queue?"),)},
        {"params": SamplingParams(max_tokens=1)},
        {"params": SamplingParams(stop=("\n",))},
        {"params": SamplingParams(temperature=0.7, seed=1)},
    ],
)
def test_what_changes_the_answer_counts(other):
    assert fingerprint(replace(REQUEST, **other), MODEL) != fingerprint(REQUEST, MODEL)


def test_another_template_or_weights_give_another_fingerprint():
    plain = MODEL.model_copy(update={"preprocessing": Preprocessing(chat_template=False)})
    other = MODEL.model_copy(update={"path": "elsewhere"})
    assert len({fingerprint(REQUEST, model) for model in (MODEL, plain, other)}) == 3


def test_a_request_that_depends_on_chance_has_none():
    assert fingerprint(replace(REQUEST, params=SamplingParams(temperature=0.7)), MODEL) is None


def test_a_repeated_request_has_the_same_digest():
    chat = replace(REQUEST, prompt=None, messages=(Message("user", "hi"),))
    assert digest(chat) == digest(replace(chat, params=SamplingParams()))
    first, second = ({"a": 1, "b": [2]}, {"b": [2], "a": 1})
    assert digest(replace(REQUEST, metadata=first)) == digest(replace(REQUEST, metadata=second))


@pytest.mark.parametrize(
    "other",
    [
        {"model": "n"},
        {"prompt": "What is a queue? "},
        {"prompt": None, "messages": (Message("user", "What is a queue?"),)},
        {"params": SamplingParams(max_tokens=1)},
        {"params": SamplingParams(stop=("\n",))},
        {"priority": 0},
        {"expires_in": 9.0},
        {"use_cache": False},
        {"reproducible": True},
        {"metadata": {}},
        {"metadata": {"a": "1"}},
    ],
)
def test_any_difference_gives_another_digest(other):
    assert digest(replace(REQUEST, **other)) != digest(REQUEST)


def test_a_digest_is_the_same_in_the_next_release():
    written = b'{"model":"m","prompt":"What is a queue?"}'
    assert digest(REQUEST) == hashlib.sha256(written).hexdigest()
