"""A model that llama.cpp's server runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nexus_jobs.adapters.engines.build import build_engine
from nexus_jobs.chaos.stack import until
from nexus_jobs.engine import Engine, Progress, TokenSequence, Usage
from nexus_jobs.errors import ConfigError, InvalidRequest, ModelUnavailable
from nexus_jobs.execution import try_out, warm_up
from nexus_jobs.job import FinishReason, Message, SamplingParams
from nexus_jobs.models import ModelConfig
from tests.integration.engines.batches import in_company
from tests.llama_server import CONTEXT, LlamaServer

pytestmark = pytest.mark.model

SLOTS = 4
NOWHERE = Path("no-weights-here")
ENDLESS = SamplingParams(max_tokens=400, ignore_eos=True)


def engine_of(url: str, **settings: object) -> Engine:
    config = ModelConfig.model_validate(
        {"name": "far", "type": "upstream", "path": url, "max_batch_size": SLOTS} | settings
    )
    return build_engine(config, models_dir=NOWHERE, threads=1)


@pytest.fixture(scope="session")
def gguf(models_dir: Path) -> Path:
    return models_dir / "smollm2-135m" / "gguf" / "model.gguf"


@pytest.fixture(scope="module")
def server(gguf: Path) -> Iterator[LlamaServer]:
    with LlamaServer(gguf, slots=SLOTS) as running:
        yield running


@pytest.fixture(scope="module")
def engine(server: LlamaServer) -> Iterator[Engine]:
    with closing(engine_of(server.url)) as built:
        yield built


def chat(engine: Engine, name: str, text: str, **params: object) -> TokenSequence:
    rendered = engine.tokenizer.render([Message("user", text)])
    assert rendered is not None
    ids = engine.tokenizer.encode(rendered, add_special_tokens=False)
    return TokenSequence(name, ids, SamplingParams(**params))


def last_of(engine: Engine, sequence: TokenSequence) -> Progress:
    engine.admit([sequence])
    while True:
        for progress in engine.step():
            if progress.is_last:
                return progress


def until_none_run(server: LlamaServer) -> None:
    until(lambda: server.busy_slots() == 0)


def test_chats_and_plain_prompts_are_answered_side_by_side(server: LlamaServer) -> None:
    engine = engine_of(server.url, preprocessing={"chat_template": False})
    plain = engine.tokenizer.encode("One, two, three, four,")
    rows = [
        chat(engine, "chat", "Say hello.", max_tokens=8),
        TokenSequence("plain", plain, SamplingParams(max_tokens=6)),
        *(chat(engine, f"{n}", f"Name {n} rivers.", max_tokens=5) for n in range(2, 9)),
    ]
    answers = in_company(engine, rows, joining=[3, 0, 2])
    texts = {name: engine.tokenizer.decode(ids) for name, ids in answers.items()}
    assert texts["plain"].startswith(" five, six")
    assert "hello" in texts["chat"].lower()
    assert all(texts.values())
    engine.close()


def test_tokens_are_counted_as_the_server_counts_them(engine: Engine) -> None:
    short = last_of(engine, chat(engine, "s", "Tell me a story.", max_tokens=7, ignore_eos=True))
    assert short.finish_reason is FinishReason.LENGTH
    assert isinstance(short.usage, Usage)
    assert short.usage.completion_tokens == 7
    long = last_of(engine, chat(engine, "l", "Tell me " + "a long " * 20 + "story.", max_tokens=1))
    assert long.usage is not None
    assert long.usage.prompt_tokens >= short.usage.prompt_tokens + 20


def test_an_answer_ends_before_a_stop_string_or_when_the_model_has_said_all(engine: Engine) -> None:
    (stopped,) = in_company(
        engine, [chat(engine, "x", "Count from 1 to 9.", max_tokens=60, stop=("4",))]
    ).values()
    text = engine.tokenizer.decode(stopped)
    assert "3" in text
    assert "4" not in text
    ended = last_of(engine, chat(engine, "hi", "Hi!", max_tokens=200))
    assert ended.finish_reason is FinishReason.STOP


def test_a_seed_repeats_an_answer_and_another_does_not(engine: Engine) -> None:
    seeds = {"a": 1, "b": 1, "c": 2}
    answers = {}
    for name, seed in seeds.items():
        row = chat(engine, name, "Tell me a story.", max_tokens=12, temperature=1.5, seed=seed)
        answers |= in_company(engine, [row])
    assert answers["a"] == answers["b"] != answers["c"]


def test_a_prompt_that_the_server_refuses_fails_alone_and_with_its_reason(engine: Engine) -> None:
    fine = chat(engine, "fine", "Say hello.", max_tokens=5)
    engine.admit([chat(engine, "long", "word " * 2 * CONTEXT), fine])
    ends = {}
    while len(ends) < 2:
        ends |= {row.sequence_id: row for row in engine.step() if row.is_last}
    assert ends["fine"].finish_reason is FinishReason.LENGTH
    assert isinstance(ends["long"].error, InvalidRequest)
    assert "context size" in str(ends["long"].error)


def test_the_server_stops_generating_what_was_evicted(engine: Engine, server: LlamaServer) -> None:
    until_none_run(server)
    rows = [TokenSequence(name, engine.tokenizer.encode("Go on"), ENDLESS) for name in "ab"]
    engine.admit(rows)
    seen: set[str] = set()
    while len(seen) < 2:
        seen |= {row.sequence_id for row in engine.step()}
    assert server.busy_slots() == 2
    engine.evict("a")
    engine.evict("unknown")
    until(lambda: server.busy_slots() == 1)
    while not (after := {row.sequence_id for row in engine.step()}):
        pass
    assert after == {"b"}
    engine.evict("b")
    until_none_run(server)
    assert engine.step() == []


def test_an_engine_that_is_closed_leaves_nothing_running(server: LlamaServer) -> None:
    engine = engine_of(server.url)
    engine.admit([TokenSequence("a", engine.tokenizer.encode("Go on"), ENDLESS)])
    while not engine.step():
        pass
    engine.close()
    until_none_run(server)


def test_it_warms_up_like_any_engine(engine: Engine) -> None:
    warm_up(engine)
    assert engine.step() == []


def test_a_server_that_dies_is_a_dead_engine_and_a_new_one_finds_it_when_it_is_back(
    gguf: Path,
) -> None:
    with LlamaServer(gguf, slots=1) as server:
        with closing(engine_of(server.url)) as engine:
            engine.admit([TokenSequence("a", engine.tokenizer.encode("Go on"), ENDLESS)])
            while not engine.step():
                pass
            server.kill()
            error = None
            while error is None:
                error = next((row.error for row in engine.step() if row.is_last), None)
            assert "broke off its answer" in str(error)
            with pytest.raises(ModelUnavailable, match="cannot be reached"):
                try_out(engine)
        with pytest.raises(ModelUnavailable, match="cannot be reached"):
            engine_of(server.url)
        server.start()
        with closing(engine_of(server.url)) as again:
            try_out(again)


def test_a_key_comes_from_the_environment_and_a_wrong_one_is_told(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = {"upstream": {"key_env": "FAR_API_KEY"}}
    with LlamaServer(gguf, slots=1, key="open sesame") as server:
        with pytest.raises(ModelUnavailable, match="FAR_API_KEY, which is not set"):
            engine_of(server.url, **keyed)
        monkeypatch.setenv("FAR_API_KEY", "knock knock")
        with pytest.raises(ModelUnavailable, match="answers 401"):
            engine_of(server.url, **keyed)
        monkeypatch.setenv("FAR_API_KEY", "open sesame")
        with closing(engine_of(server.url, **keyed)) as engine:
            try_out(engine)


def test_a_model_that_the_server_does_not_have_is_told_with_those_it_has(
    server: LlamaServer,
) -> None:
    with pytest.raises(ModelUnavailable, match=r"no model 'gpt-9' but .*model\.gguf; say which"):
        engine_of(server.url, upstream={"model": "gpt-9"})


def test_nobody_promises_that_its_answers_can_be_reproduced(server: LlamaServer) -> None:
    with pytest.raises(ConfigError, match="cannot be reproducible"):
        engine_of(server.url, reproducible=True)
