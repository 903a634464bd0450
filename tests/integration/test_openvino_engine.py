"""OpenVINO's engine with the real default model: its rows, their ends, and its failures."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus_jobs.adapters.engines.build import build_engine
from nexus_jobs.adapters.engines.openvino import OpenVinoEngine
from nexus_jobs.adapters.tokenizer import FileTokenizer
from nexus_jobs.engine import Engine, Progress, TokenSequence
from nexus_jobs.errors import EngineError, InvalidRequest, ModelUnavailable
from nexus_jobs.job import FinishReason, Message, SamplingParams
from nexus_jobs.models import ModelConfig
from tests.e2e.stack import until

pytestmark = pytest.mark.model

CONFIG = ModelConfig(
    name="smollm2-135m",
    type="openvino",
    max_batch_size=8,
    max_sequence_length=512,
    max_batch_tokens=64,
)
FRANCE = "What is the capital of France?"


@pytest.fixture(scope="module")
def loaded(models_dir: Path) -> Iterator[Engine]:
    """In this process, where a test can break it."""
    folder = models_dir / "smollm2-135m"
    engine = OpenVinoEngine(
        folder / "gguf" / "model.gguf",
        tokenizer=FileTokenizer(folder / "tokenizer"),
        slots=CONFIG.max_batch_size,
        max_sequence_length=CONFIG.max_sequence_length,
        max_batch_tokens=CONFIG.max_batch_tokens,
        threads=2,
        name="openvino Q4_1",
    )
    yield engine
    engine.close()


@pytest.fixture
def engine(loaded: Engine) -> Engine:
    """The engine, which a test must leave without rows."""
    assert loaded.step() == []
    return loaded


def row(engine: Engine, name: str, text: str = FRANCE, **params: object) -> TokenSequence:
    rendered = engine.tokenizer.render([Message("user", text)])
    assert rendered is not None
    return TokenSequence(name, engine.tokenizer.encode(rendered), SamplingParams(**params))


def finish(engine: Engine, *rows: TokenSequence) -> dict[str, tuple[list[int], FinishReason]]:
    """Run the rows to their ends; the tokens of each and why it ended."""
    engine.admit(rows)
    tokens: dict[str, list[int]] = {row.id: [] for row in rows}
    ended: dict[str, FinishReason] = {}
    for progress in itertools.chain.from_iterable(engine.step() for _ in range(600)):
        assert progress.sequence_id not in ended
        tokens[progress.sequence_id] += progress.token_ids
        if progress.finish_reason is not None:
            ended[progress.sequence_id] = progress.finish_reason
        if len(ended) == len(rows):
            return {name: (tokens[name], ended[name]) for name in tokens}
    pytest.fail("rows did not end")


def said(engine: Engine, *rows: TokenSequence) -> list[str]:
    return [engine.tokenizer.decode(tokens) for tokens, _ in finish(engine, *rows).values()]


def test_it_answers_and_stops_without_the_end_token(engine: Engine) -> None:
    tokens, reason = finish(engine, row(engine, "a"))["a"]
    assert engine.tokenizer.decode(tokens) == "The capital of France is Paris."
    assert reason is FinishReason.STOP
    assert 2 not in tokens


def test_it_says_what_it_is(engine: Engine) -> None:
    assert engine.name == "openvino Q4_1"
    assert not engine.reproducible
    assert (engine.slots, engine.max_sequence_length) == (8, 512)


def test_max_tokens_ends_a_row_in_the_step_of_its_last_token(engine: Engine) -> None:
    engine.admit([row(engine, "a", max_tokens=1), row(engine, "b", max_tokens=2)])
    first, second = engine.step(), engine.step()
    assert [(p.sequence_id, len(p.token_ids), p.finish_reason) for p in first] == [
        ("a", 1, FinishReason.LENGTH),
        ("b", 1, None),
    ]
    assert [(p.sequence_id, len(p.token_ids), p.finish_reason) for p in second] == [
        ("b", 1, FinishReason.LENGTH)
    ]


def test_min_tokens_and_ignore_eos_hold_back_the_end(engine: Engine) -> None:
    ends = finish(
        engine,
        row(engine, "min", min_tokens=20, max_tokens=60),
        row(engine, "ignore", ignore_eos=True, max_tokens=30),
    )
    assert len(ends["min"][0]) >= 20
    assert (len(ends["ignore"][0]), ends["ignore"][1]) == (30, FinishReason.LENGTH)


def test_prompt_and_answer_together_fit_the_model(engine: Engine) -> None:
    long = TokenSequence("a", [198] * 500, SamplingParams(max_tokens=400, ignore_eos=True))
    tokens, reason = finish(engine, long)["a"]
    assert (len(tokens), reason) == (12, FinishReason.LENGTH)


def test_a_long_prompt_is_spread_over_steps_while_others_go_on(engine: Engine) -> None:
    engine.admit([row(engine, "short", max_tokens=20, ignore_eos=True)])
    engine.step()
    engine.admit([TokenSequence("long", [198] * 400, SamplingParams(max_tokens=1))])
    seen: list[Progress] = []
    while not any(progress.sequence_id == "long" for progress in seen):
        seen += engine.step()
    assert len([progress for progress in seen if progress.sequence_id == "short"]) >= 6
    engine.evict("short")


def test_rows_join_and_leave_a_running_batch(engine: Engine) -> None:
    engine.admit([row(engine, "a", max_tokens=12, ignore_eos=True)])
    engine.step()
    engine.admit([row(engine, "b", max_tokens=3, ignore_eos=True)])
    steps = [sorted(progress.sequence_id for progress in engine.step()) for _ in range(11)]
    assert steps[:3] == [["a", "b"]] * 3
    assert steps[3:] == [["a"]] * 8
    assert engine.step() == []


def test_an_evicted_row_says_nothing_more_and_its_slot_is_free(engine: Engine) -> None:
    engine.admit([row(engine, str(n), max_tokens=200, ignore_eos=True) for n in range(8)])
    engine.step()
    for n in range(8):
        engine.evict(str(n))
    engine.evict("never there")
    assert engine.step() == []
    texts = said(engine, *(row(engine, f"new {n}") for n in range(8)))
    assert all("Paris" in text for text in texts)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_prompt_that_was_given_up_spoils_no_other_with_the_same_beginning(
    engine: Engine, steps: int
) -> None:
    story = f"{steps} lanterns shine on the marble wall of the harbour in winter. " * 12
    question = f"{story}\n{FRANCE}"
    engine.admit([row(engine, "given up", question, max_tokens=200, ignore_eos=True)])
    for _ in range(steps):
        engine.step()
    engine.evict("given up")
    for name in ("first", "second"):
        (text,) = said(engine, row(engine, name, question, max_tokens=16))
        assert "Paris" in text


def test_rows_that_were_given_up_stop_when_their_prompts_have_been_read(engine: Engine) -> None:
    stories = [f"{n} lanterns shine on the marble wall of the harbour. " * 12 for n in range(8)]
    engine.admit([row(engine, story, story, max_tokens=200, ignore_eos=True) for story in stories])
    engine.step()
    for story in stories:
        engine.evict(story)
    until(lambda: engine.step() == [] and not engine._leaving)


def test_an_id_may_be_used_again(engine: Engine) -> None:
    assert said(engine, row(engine, "same")) == said(engine, row(engine, "same"))


def test_a_prompt_whose_beginning_is_cached_is_still_read_to_its_own_end(engine: Engine) -> None:
    begin = "The library is open every day from nine to five. " * 12
    rows = [
        row(engine, question, f"{begin}\n{question}", max_tokens=16)
        for question in ("What is this text about?", "What is the capital of Italy?")
    ]
    cold = [said(engine, question) for question in rows]
    warm = [said(engine, question) for question in rows]
    assert warm == cold
    assert cold[0] != cold[1]


def test_sampling_varies_and_a_seed_repeats_it(engine: Engine) -> None:
    def sample(**params: object) -> str:
        (text,) = said(
            engine,
            row(engine, "a", "Tell me a story.", temperature=1.5, max_tokens=16, **params),
        )
        return text

    assert len({sample() for _ in range(4)}) > 1
    assert sample(seed=7) == sample(seed=7) != sample(seed=2**63 - 1)
    greedy = said(engine, row(engine, "a", "Tell me a story.", max_tokens=16))
    assert [sample(top_k=1)] == greedy
    assert [sample(top_p=0.001)] == greedy


def test_a_repetition_penalty_keeps_words_from_coming_back(engine: Engine) -> None:
    text = "Repeat the word yes many times: yes yes yes yes yes yes"
    params = {"max_tokens": 40, "ignore_eos": True}
    plain, penalised = finish(
        engine,
        row(engine, "plain", text, **params),
        row(engine, "penalised", text, repetition_penalty=1.8, **params),
    ).values()
    assert len(set(penalised[0])) > len(set(plain[0]))


def ends_of(engine: Engine, *rows: TokenSequence) -> dict[str, Progress]:
    """The last progress of each row."""
    engine.admit(rows)
    ends: dict[str, Progress] = {}
    while len(ends) < len(rows):
        ends |= {progress.sequence_id: progress for progress in engine.step() if progress.is_last}
    return ends


def test_rows_that_the_library_refuses_fail_alone_and_with_its_reason(engine: Engine) -> None:
    refused = [
        ("a", "temperature", {"temperature": 1e-46}),
        ("b", "top_p", {"temperature": 1.0, "top_p": 1e-300}),
        ("c", "repetition_penalty", {"repetition_penalty": 1e-300}),
    ]
    rows = [row(engine, name, **params) for name, _, params in refused]
    good = [row(engine, f"good {n}", max_tokens=3) for n in range(2)]
    ends = ends_of(engine, good[0], *rows, good[1])
    for name, field, _ in refused:
        assert isinstance(ends[name].error, InvalidRequest)
        assert field in str(ends[name].error)
    assert {ends[f"good {n}"].finish_reason for n in range(2)} == {FinishReason.LENGTH}


def test_a_refused_row_that_was_evicted_is_not_heard_of_again(engine: Engine) -> None:
    engine.admit([row(engine, "bad", temperature=1e-46)])
    engine.evict("bad")
    assert engine.step() == []


def test_a_row_that_cannot_be_added_keeps_its_whole_group_out(engine: Engine) -> None:
    empty = TokenSequence("empty", [], SamplingParams())
    with pytest.raises(EngineError, match="Prompt length cannot be 0"):
        engine.admit([row(engine, "good"), empty])
    assert engine.step() == []


def test_after_a_failed_step_the_engine_is_empty_and_works(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two requests under one number are an error that the library finds in its step."""
    monkeypatch.setattr(engine, "_numbers", itertools.repeat(7))
    engine.admit([row(engine, "a"), row(engine, "b")])
    with pytest.raises(EngineError, match=r"^openvino.*: .*state"):
        engine.step()
    monkeypatch.undo()
    assert engine.step() == []
    assert "Paris" in said(engine, row(engine, "a"))[0]


def test_loading_and_running_write_nothing_and_print_nothing(
    models_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path for path in models_dir.rglob("*") if path.is_file())
    engine = build_engine(CONFIG, models_dir=models_dir, threads=1)
    said(engine, row(engine, "a", max_tokens=2))
    engine.close()
    assert capfd.readouterr() == ("", "")
    assert sorted(path for path in models_dir.rglob("*") if path.is_file()) == before


def test_a_file_openvino_cannot_open_makes_the_model_unavailable(
    models_dir: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "model.gguf"
    broken.write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(ModelUnavailable, match="openvino cannot open"):
        OpenVinoEngine(
            broken,
            tokenizer=FileTokenizer(models_dir / "smollm2-135m" / "tokenizer"),
            slots=1,
            max_sequence_length=64,
            max_batch_tokens=64,
            threads=1,
        )


SIGNAL_AFTER_CLOSE = """
import faulthandler, os, signal, sys
from pathlib import Path
from nexus_jobs.adapters.engines.openvino import OpenVinoEngine
from nexus_jobs.adapters.tokenizer import FileTokenizer
faulthandler.enable()  # which sets a stack for signals, as test runners do
folder = Path(sys.argv[1])
engine = OpenVinoEngine(
    folder / "gguf" / "model.gguf", tokenizer=FileTokenizer(folder / "tokenizer"),
    slots=1, max_sequence_length=64, threads=1,
)
engine.close()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_process_can_handle_signals_after_an_engine_is_closed(models_dir: Path) -> None:
    script = [sys.executable, "-c", SIGNAL_AFTER_CLOSE, str(models_dir / "smollm2-135m")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
