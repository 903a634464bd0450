"""What clients may write, and what they are told when they write something else."""

import orjson
import pytest

from nexus_jobs.errors import InvalidRequest
from nexus_jobs.job import Message, SamplingParams
from nexus_jobs.submission import (
    MOST_PROBLEMS,
    BatchSubmission,
    Generation,
    Submission,
    parse_json,
    parse_text,
)


def submit(**fields):
    return parse_json(Submission, orjson.dumps({"model": "m", "prompt": "p"} | fields))


def problems(body: bytes, model=Submission):
    with pytest.raises(InvalidRequest) as refused:
        parse_json(model, body)
    return {(p.field, p.code): p.message for p in refused.value.problems}


def test_defaults_are_greedy_and_cacheable():
    request = submit().to_request()
    assert request.params == SamplingParams()
    assert (request.params.temperature, request.use_cache, request.priority) == (0.0, True, 5)


def test_every_option_reaches_the_request():
    options = {
        "max_tokens": 7, "min_tokens": 2, "ignore_eos": True, "temperature": 0.5, "top_p": 0.9,
        "top_k": 5, "seed": 1, "stop": ["a", "b"], "repetition_penalty": 1.1,
    }  # fmt: skip
    request = submit(
        **options, priority=0, expires_in=5, cache="no", metadata={"k": 1}
    ).to_request()
    assert request.params == SamplingParams(**{**options, "stop": ("a", "b")})
    assert (request.priority, request.expires_in, request.use_cache) == (0, 5.0, False)
    assert request.metadata == {"k": 1}


def test_a_single_stop_string_is_a_list_of_one():
    assert submit(stop="\n").to_request().params.stop == ("\n",)


def test_a_chat_may_stand_instead_of_a_prompt():
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    request = parse_json(Submission, orjson.dumps(body)).to_request()
    assert (request.prompt, request.messages) == (None, (Message("user", "hi"),))


@pytest.mark.parametrize(
    ("fields", "field", "code", "hint"),
    [
        ({"temperature": -1}, "temperature", "out_of_range", "greater than or equal to 0"),
        ({"temperature": float("nan")}, "temperature", "invalid_value", "valid number"),
        ({"max_tokens": 0}, "max_tokens", "out_of_range", "greater than or equal to 1"),
        ({"max_tokens": "12"}, "max_tokens", "invalid_value", "valid integer"),
        ({"temperature": 1e-46}, "temperature", "out_of_range", "0, or at least 1e-06"),
        ({"top_p": 0}, "top_p", "out_of_range", "greater than or equal to 0.000001"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty", "out_of_range", "0.000001"),
        ({"seed": 1.5}, "seed", "invalid_value", "valid integer"),
        ({"stop": [""]}, "stop.0", "out_of_range", "at least 1 character"),
        ({"stop": ["x"] * 17}, "stop", "out_of_range", "at most 16 items"),
        ({"min_tokens": 500}, "min_tokens", "out_of_range", "not be larger than max_tokens (128)"),
        ({"max_token": 5}, "max_token", "unknown_field", "did you mean 'max_tokens'?"),
        ({"cache": "maybe"}, "cache", "invalid_value", "'yes' or 'no'"),
        ({"messages": []}, "messages", "out_of_range", "at least 1 item"),
        ({"messages": [{"role": "user", "content": "x"}]}, None, "invalid_value", "not both"),
        ({"prompt": None}, None, "invalid_value", "either `prompt` or `messages`"),
        ({"prompt": 5}, "prompt", "invalid_value", "valid string"),
        ({"priority": 10}, "priority", "out_of_range", "less than or equal to 9"),
    ],
)
def test_a_wrong_field_is_named_with_what_would_be_right(fields, field, code, hint):
    found = problems(orjson.dumps({"model": "m", "prompt": "p"} | fields))
    assert hint in found[field, code]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "[-Infinity]"])
def test_metadata_that_could_not_be_given_back_as_it_is_is_refused(number):
    body = f'{{"model": "m", "prompt": "p", "metadata": {{"a": {number}}}}}'
    assert "finite" in problems(body.encode())["metadata", "invalid_value"]


def test_only_so_many_problems_are_told():
    turns = [{"role": "nobody"}] * 1000
    body = {"model": "m", "messages": turns}
    with pytest.raises(InvalidRequest) as error:
        parse_json(Submission, orjson.dumps(body))
    assert len(error.value.problems) == MOST_PROBLEMS


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"model": "\\ud800"}'])
def test_what_is_not_json_is_said_to_be_so(body):
    assert (None, "invalid_json") in problems(body)


def test_all_that_is_wrong_is_told_at_once():
    found = problems(b'{"prompt": "p", "temperature": -1, "tempreature": 1}')
    assert set(found) == {
        ("model", "missing_field"),
        ("temperature", "out_of_range"),
        ("tempreature", "unknown_field"),
    }


def test_a_batch_is_a_request_for_each_prompt():
    body = b'{"model": "m", "prompts": ["a", "b"], "max_tokens": 3}'
    requests = parse_json(BatchSubmission, body).to_requests()
    assert [(r.prompt, r.params.max_tokens) for r in requests] == [("a", 3), ("b", 3)]


def test_text_is_converted_as_in_a_csv():
    options = parse_text(Generation, {"max_tokens": "12", "ignore_eos": "true", "stop": "###"})
    assert (options.max_tokens, options.ignore_eos, options.stop) == (12, True, ["###"])


def test_text_that_cannot_be_converted_is_refused():
    with pytest.raises(InvalidRequest, match="`max_tokens`: input should be a valid integer"):
        parse_text(Generation, {"max_tokens": "many"})
