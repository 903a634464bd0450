"""What becomes of rows when the server that runs their model misbehaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nexus_jobs.adapters.engines import completions
from nexus_jobs.adapters.engines.build import build_engine
from nexus_jobs.engine import Engine, Progress, TokenSequence, Usage
from nexus_jobs.errors import EngineError, InvalidRequest, ModelUnavailable, UpstreamError
from nexus_jobs.execution import try_out
from nexus_jobs.job import FinishReason, SamplingParams
from nexus_jobs.models import ModelConfig
from nexus_jobs.retry import RetryPolicy

MODELS = {"data": [{"id": "m"}]}


class Handler(BaseHTTPRequestHandler):
    """Answers with what the test has prepared; keeps what it was asked."""

    protocol_version = "HTTP/1.1"
    server: Fake

    def do_GET(self) -> None:
        self.reply(200, self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def reply(self, status: int, document: object, **headers: str) -> None:
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def stream(self, *events: object) -> None:
        """Server-sent events, after which the connection is closed."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events:
            data = event if isinstance(event, str) else json.dumps(event)
            self.wfile.write(f"data: {data}\n\n".encode())
            self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


class Fake(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: object = MODELS
        self.answers: list[Callable[[Handler], None]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


@pytest.fixture
def fake() -> Iterator[Fake]:
    with Fake() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def engine_on(fake: Fake, **settings: object) -> Iterator[Engine]:
    config = ModelConfig.model_validate(
        {"name": "far", "type": "upstream", "path": fake.url, "max_batch_size": 4} | settings
    )
    with closing(build_engine(config, models_dir=Path(), threads=1)) as engine:
        yield engine


def end_of(engine: Engine, text: str = "Hi", **params: object) -> Progress:
    """The last progress of a row."""
    row = TokenSequence("a", engine.tokenizer.encode(text), SamplingParams(**params))
    engine.admit([row])
    while True:
        for progress in engine.step():
            if progress.is_last:
                return progress


def piece(text: str | None, finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish_reason}]}


def whole(handler: Handler) -> None:
    handler.stream(piece("Hello"), piece(None, "stop"), "[DONE]")


def test_parameters_travel_in_openais_words_and_others_only_where_they_are_used(
    fake: Fake,
) -> None:
    fake.answers = [whole]
    with engine_on(fake) as engine:
        end_of(engine)
        end_of(
            engine, max_tokens=9, temperature=0.7, top_p=0.9, seed=3, stop=("END",), top_k=40,
            repetition_penalty=1.2,
        )  # fmt: skip
        end_of(engine, min_tokens=2, ignore_eos=True, stop=("END",))
    (path, plain), (_, rich), (_, long) = fake.asked
    assert path == "/v1/chat/completions"
    assert plain == {
        "model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True,
        "stream_options": {"include_usage": True}, "max_tokens": 128, "temperature": 0.0,
    }  # fmt: skip
    assert {name: rich[name] for name in rich.keys() - plain.keys()} == {
        "top_p": 0.9, "seed": 3, "stop": ["END"], "top_k": 40, "repetition_penalty": 1.2,
        "repeat_penalty": 1.2,
    }  # fmt: skip
    assert (rich["max_tokens"], rich["temperature"]) == (9, 0.7)
    assert long.keys() - plain.keys() == {"min_tokens", "ignore_eos"}


def test_a_busy_server_is_asked_again_until_it_takes_the_row(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "_WHEN_BUSY", RetryPolicy(first=0.01, longest=0.05))
    fake.answers = [
        lambda handler: handler.reply(429, {"error": {"message": "slow down"}}, Retry_After="60"),
        lambda handler: handler.reply(503, {"error": {"message": "Loading model"}}),
        whole,
    ]
    with engine_on(fake) as engine:
        assert end_of(engine).finish_reason is FinishReason.STOP
    assert len(fake.asked) == 3


@pytest.mark.parametrize(
    ("status", "document", "kind", "reason"),
    [
        (400, {"error": {"message": "no such role"}}, InvalidRequest, "400: no such role"),
        (422, {"detail": [{"msg": "not a number"}]}, InvalidRequest, "422: .*not a number"),
        (500, {"error": "boom"}, UpstreamError, "500: boom"),
        (502, b"<html>Bad Gateway</html>", UpstreamError, "502: <html>Bad Gateway"),
        (200, {"choices": []}, UpstreamError, "does not speak OpenAI's API"),
    ],
)
def test_an_answer_that_is_none_fails_the_row_alone(
    fake: Fake, status: int, document: object, kind: type[Exception], reason: str
) -> None:
    fake.answers = [lambda handler: handler.reply(status, document), whole]
    with engine_on(fake) as engine:
        end = end_of(engine)
        assert isinstance(end.error, kind)
        with pytest.raises(kind, match=reason):
            raise end.error
        assert end_of(engine).finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([piece("Hel")], "broke off its answer"),
        ([piece("Hel"), {"error": {"message": "out of memory"}}], "out of memory"),
        ([piece("Hel"), "{"], "does not speak OpenAI's API"),
        ([piece("Hel"), {"choices": [3]}], "does not speak OpenAI's API"),
        ([piece("Hel"), "[1]"], "does not speak OpenAI's API"),
    ],
)
def test_half_an_answer_is_none(fake: Fake, events: list[object], reason: str) -> None:
    fake.answers = [lambda handler: handler.stream(*events)]
    with engine_on(fake) as engine:
        end = end_of(engine)
        assert end.finish_reason is None
        with pytest.raises(UpstreamError, match=reason):
            raise end.error or AssertionError


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"prompt_tokens": 12, "completion_tokens": 2**31 - 1}, Usage(12, 2**31 - 1)),
        ({"prompt_tokens": 12, "completion_tokens": 2**31}, None),
        ({"prompt_tokens": -1, "completion_tokens": 3}, None),
        ({"prompt_tokens": 12, "completion_tokens": None}, None),
        ({"prompt_tokens": 12.5, "completion_tokens": 3}, None),
        ({"prompt_tokens": True, "completion_tokens": 3}, None),
        ({"total_tokens": 15}, None),
        ([12, 3], None),
    ],
)
def test_token_counts_that_cannot_be_are_not_believed(
    fake: Fake, told: object, usage: Usage | None
) -> None:
    counted = {"choices": [], "usage": told}
    fake.answers = [lambda handler: handler.stream(piece("Hi", "stop"), counted, "[DONE]")]
    with engine_on(fake) as engine:
        end = end_of(engine)
    assert (end.finish_reason, end.usage) == (FinishReason.STOP, usage)


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_what_is_refused_while_a_trial_is_not_is_the_rows_own_affair(
    fake: Fake, status: int
) -> None:
    fake.answers = [
        lambda handler: handler.reply(status, {"error": {"message": "flagged"}}),
        whole,
    ]
    with engine_on(fake) as engine:
        error = end_of(engine, "something wicked").error
        assert isinstance(error, UpstreamError)
        assert str(error).endswith(f"{status}: flagged")
        assert end_of(engine).finish_reason is FinishReason.STOP
    assert "wicked" not in json.dumps(fake.asked[1])


def test_a_trial_that_fails_is_not_refused(fake: Fake) -> None:
    fake.answers = [
        lambda handler: handler.reply(403, {"error": {"message": "flagged"}}),
        lambda handler: handler.reply(500, {"error": {"message": "boom"}}),
    ]
    with engine_on(fake) as engine, pytest.raises(UpstreamError, match="403: flagged"):
        raise end_of(engine).error or AssertionError


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_what_nobody_would_be_answered_is_a_dead_engine(fake: Fake, status: int) -> None:
    fake.answers = [lambda handler: handler.reply(status, {"error": {"message": "go away"}})]
    with engine_on(fake) as engine, pytest.raises(ModelUnavailable, match=f"{status}: go away"):
        end_of(engine)


def test_a_server_that_falls_silent_is_given_up(fake: Fake) -> None:
    over = threading.Event()

    def silent(handler: Handler) -> None:
        handler.stream(piece("Hel"))
        over.wait(30)

    fake.answers = [silent]
    with engine_on(fake, upstream={"silence_seconds": 0.3}) as engine:
        end = end_of(engine)
    over.set()
    assert isinstance(end.error, UpstreamError)


def test_a_trial_that_is_never_answered_ends(fake: Fake) -> None:
    fake.answers = [lambda handler: handler.reply(503, {"error": {"message": "busy"}})]
    now = iter(range(0, 1000, 10))
    with engine_on(fake) as engine:
        with pytest.raises(EngineError, match="no answer within 30 s"):
            try_out(engine, clock=lambda: float(next(now)))
        assert engine.step() == []


@pytest.mark.parametrize(
    ("models", "settings", "found"),
    [
        ({"data": [{"id": "only"}]}, {}, "only"),
        ({"data": [{"id": "x"}, {"id": "far"}]}, {}, "far"),
        ({"data": [{"id": "x"}, {"id": "y"}]}, {"upstream": {"model": "y"}}, "y"),
    ],
)
def test_the_model_is_the_only_one_or_the_one_that_is_named(
    fake: Fake, models: object, settings: dict[str, Any], found: str
) -> None:
    fake.models, fake.answers = models, [whole]
    with engine_on(fake, **settings) as engine:
        assert engine.name.startswith(f"{found} at http://")
        end_of(engine)
    assert fake.asked[0][1]["model"] == found


@pytest.mark.parametrize("models", [{"data": []}, {"data": [{"id": "x"}, {"id": "y"}]}])
def test_a_model_that_cannot_be_told_is_not_guessed(fake: Fake, models: object) -> None:
    fake.models = models
    with pytest.raises(ModelUnavailable, match=r"say which one you mean in upstream\.model"):
        engine_on(fake).__enter__()


def test_a_list_of_models_that_is_none_is_told(fake: Fake) -> None:
    fake.models = b"<html>"
    with pytest.raises(UpstreamError, match="does not speak OpenAI's API"):
        engine_on(fake).__enter__()
