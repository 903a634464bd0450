"""The torch engine on a CUDA device; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from nexus_jobs.adapters.engines.torch import TorchEngine
from nexus_jobs.adapters.engines.words import WordTokenizer
from nexus_jobs.engine import TokenSequence
from nexus_jobs.job import SamplingParams
from tests.integration.engines.batches import alone, in_company

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

SLOTS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama whose likeliest tokens are far from the next likely."""
    path = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=1,
    )
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(path)
    return path


def load(folder: Path, device: str, precision: str) -> TorchEngine:
    return TorchEngine(
        folder,
        tokenizer=WordTokenizer(),
        slots=SLOTS,
        max_sequence_length=1024,
        threads=0,
        device=device,
        precision=precision,
    )


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def on_cuda(request: pytest.FixtureRequest, folder: Path) -> Iterator[TorchEngine]:
    engine = load(folder, "cuda:0", request.param)
    yield engine
    engine.close()


def sequences(count: int, longest: int = 600) -> list[TokenSequence]:
    random = np.random.default_rng(4)
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    return [
        TokenSequence(f"{n}", random.integers(3, 2000, length).tolist(), params)
        for n, length in enumerate(random.integers(1, longest, count))
    ]


def test_it_answers_as_on_a_cpu(folder: Path) -> None:
    on_cpu, on_cuda = load(folder, "cpu", "fp32"), load(folder, "cuda:0", "fp32")
    expected = in_company(on_cpu, sequences(24))
    answers = in_company(on_cuda, sequences(24))
    assert sum(answers[name] == tokens for name, tokens in expected.items()) >= 22


def test_bf16_mostly_takes_the_first_token_of_fp32(folder: Path) -> None:
    exact, rounded = load(folder, "cuda:0", "fp32"), load(folder, "cuda:0", "bf16")
    expected, answers = (in_company(engine, sequences(40)) for engine in (exact, rounded))
    assert sum(answers[n][0] == tokens[0] for n, tokens in expected.items()) >= 32


def test_an_engine_that_says_so_answers_alike_alone_and_in_company(on_cuda: TorchEngine) -> None:
    company, by_itself = in_company(on_cuda, sequences(24)), alone(on_cuda, sequences(24))
    if on_cuda.reproducible:
        assert company == by_itself
    assert {name: len(tokens) for name, tokens in company.items()} == {
        name: len(tokens) for name, tokens in by_itself.items()
    }


def test_recorded_steps_are_still_right_after_the_cache_has_grown(on_cuda: TorchEngine) -> None:
    short = sequences(SLOTS, longest=20)
    before = in_company(on_cuda, short, joining=[SLOTS])
    in_company(on_cuda, sequences(8, longest=1000), joining=[8])
    after = in_company(on_cuda, short, joining=[SLOTS])
    assert sum(after[name] == tokens for name, tokens in before.items()) >= SLOTS - 2


def test_seeded_rows_repeat_on_cuda(on_cuda: TorchEngine) -> None:
    params = SamplingParams(max_tokens=12, ignore_eos=True, temperature=1.0, seed=3)
    row = [TokenSequence("seeded", [5, 6, 7], params)]
    assert alone(on_cuda, row) == alone(on_cuda, row)
