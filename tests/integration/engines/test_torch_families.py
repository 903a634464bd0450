"""The torch engine on small models of other families, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from nexus_jobs.adapters.engines.torch import ModelEngine, TorchEngine
from nexus_jobs.adapters.engines.torch_graphs import Recorder, Run
from nexus_jobs.adapters.engines.words import WordTokenizer
from nexus_jobs.engine import TokenSequence
from nexus_jobs.errors import ModelUnavailable
from nexus_jobs.job import SamplingParams
from tests.integration.engines.batches import alone, in_company

SMALL = {"vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA_LIKE = SMALL | {"num_key_value_heads": 2, "intermediate_size": 96, "head_dim": 16}

FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "qwen3": (Qwen3Config, LLAMA_LIKE),
    "gpt_neox": (GPTNeoXConfig, SMALL | {"intermediate_size": 96}),
    "gpt2": (
        GPT2Config,
        {"vocab_size": 200, "n_embd": 64, "n_layer": 2, "n_head": 4, "eos_token_id": 3},
    ),
    "mistral, window of 8": (MistralConfig, LLAMA_LIKE | {"sliding_window": 8}),
    "gemma3, window of 8 in one layer": (
        Gemma3TextConfig,
        LLAMA_LIKE | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    ),
}


def save(config: PreTrainedConfig, folder: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():  # far from 0, so that no two tokens are nearly as likely
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return folder


def load(folder: Path, precision: str = "fp32") -> TorchEngine:
    return TorchEngine(
        folder,
        tokenizer=WordTokenizer(),
        slots=5,
        max_sequence_length=512,
        threads=1,
        precision=precision,
    )


def sequences() -> list[TokenSequence]:
    random = np.random.default_rng(1)
    return [
        TokenSequence(
            f"{index}",
            random.integers(10, 200, length).tolist(),
            SamplingParams(max_tokens=12, ignore_eos=True, temperature=index % 2, seed=index),
        )
        for index, length in enumerate((1, 3, 8, 9, 15, 17, 18, 33, 50, 70, 300, 390))
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_answers_alike_alone_and_in_company(family: str, tmp_path: Path) -> None:
    kind, arguments = FAMILIES[family]
    engine = load(save(kind(**arguments), tmp_path))
    assert engine.reproducible
    assert in_company(engine, sequences()) == alone(engine, sequences())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tokens_cached_in_pieces_are_looked_at_as_those_cached_at_once(
    precision: str, tmp_path: Path
) -> None:
    kind, arguments = FAMILIES["gemma3, window of 8 in one layer"]
    engine = load(save(kind(**arguments), tmp_path), precision)
    backend = engine._backend
    tokens = np.random.default_rng(2).integers(10, 200, (3, 64))
    backend.prefill(0, tokens[:1], 0)
    backend.prefill(1, tokens[1:, :48], 0)
    backend.prefill(1, tokens[1:, 48:], 48)
    backend.prefill(3, tokens[:1, :16], 0)
    backend.prefill(3, tokens[:1, 16:], 16)
    logits = backend.decode(np.full(4, 7), np.full(4, 64))
    np.testing.assert_allclose(logits[3], logits[0], rtol=0, atol=0.02 * np.abs(logits).max())
    assert np.abs(logits[1] - logits[0]).max() > 0.1 * np.abs(logits).max()


def test_a_company_larger_than_a_block_changes_nothing_in_bf16(tmp_path: Path) -> None:
    kind, arguments = FAMILIES["qwen3"]
    folder = save(kind(**arguments | {"hidden_size": 576, "intermediate_size": 1536}), tmp_path)
    engine = TorchEngine(
        folder,
        tokenizer=WordTokenizer(),
        slots=40,
        max_sequence_length=128,
        threads=1,
        precision="bf16",
    )
    assert engine.reproducible
    prompts = np.random.default_rng(3).integers(10, 200, (40, 5)).tolist()
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    crowd = [TokenSequence(f"{n}", prompt, params) for n, prompt in enumerate(prompts)]
    answers = in_company(engine, crowd, joining=[40])
    assert alone(engine, crowd[::8]) == {s.id: answers[s.id] for s in crowd[::8]}


def stepping(model: Any, record: Recorder | None) -> ModelEngine:
    return ModelEngine(
        model,
        name="torch",
        tokenizer=WordTokenizer(),
        slots=5,
        max_sequence_length=512,
        max_batch_tokens=256,
        eos=(),
        record=record,
    )


@pytest.mark.parametrize("family", ["qwen3", "gemma3, window of 8 in one layer"])
def test_steps_in_recorded_shapes_answer_like_steps_as_they_come(
    family: str, tmp_path: Path
) -> None:
    kind, arguments = FAMILIES[family]
    model = AutoModelForCausalLM.from_pretrained(save(kind(**arguments), tmp_path))
    shapes = []

    def record(run: Run) -> Run:
        shapes.append(run)
        return run

    recorded = stepping(model, record)
    expected = in_company(stepping(model, None), sequences())
    assert in_company(recorded, sequences()) == expected
    assert in_company(recorded, sequences()) == expected
    known = len(shapes)
    assert 3 <= known <= 12  # of 1, 2, 4 or 8 rows with 2 spans, and in the smaller cache before
    assert in_company(recorded, sequences()) == expected
    assert len(shapes) == known


def test_a_step_that_cannot_be_recorded_runs_as_it_is(tmp_path: Path) -> None:
    def refuse(_: Run) -> Run:
        raise RuntimeError("operation not permitted when stream is capturing")

    kind, arguments = FAMILIES["qwen3"]
    model = AutoModelForCausalLM.from_pretrained(save(kind(**arguments), tmp_path))
    answers = in_company(stepping(model, refuse), sequences()[:4])
    assert answers == in_company(stepping(model, None), sequences()[:4])


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_answers_like_transformers_itself(family: str, tmp_path: Path) -> None:
    kind, arguments = FAMILIES[family]
    folder = save(kind(**arguments), tmp_path)
    answers = in_company(load(folder), sequences())
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    for sequence in sequences():
        if sequence.params.temperature == 0:
            assert answers[sequence.id] == plain_greedy(model, sequence)


@pytest.mark.parametrize("config", [MambaConfig(**SMALL), BloomConfig(vocab_size=200)])
def test_a_family_that_cannot_be_batched_is_refused(
    config: PreTrainedConfig, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnavailable, match=config.model_type):
        load(save(config, tmp_path))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        load(tmp_path)


def plain_greedy(model: Any, sequence: TokenSequence) -> list[int]:
    """Greedy tokens by a whole pass for each, without any cache."""
    ids = list(sequence.prompt)
    eos = model.generation_config.eos_token_id
    with torch.inference_mode():
        for _ in range(sequence.params.max_tokens):
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            if eos is not None:
                logits[eos] = -torch.inf
            ids.append(int(logits.argmax()))
    return ids[len(sequence.prompt) :]
