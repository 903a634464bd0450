"""What both engines promise of the real model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from nexus_jobs.adapters.engines.torch import TorchEngine
from nexus_jobs.adapters.model_folder import HUGGINGFACE, ModelFolder
from nexus_jobs.adapters.tokenizer import FileTokenizer
from nexus_jobs.engine import Engine, TokenSequence
from nexus_jobs.job import Message, SamplingParams
from tests.integration.engines.batches import alone, in_company

pytestmark = pytest.mark.model

WORDS = "harbour lantern copper seven winter engine quiet orchard signal marble thunder ribbon"
WAYS = (
    SamplingParams(),
    SamplingParams(temperature=0.8, seed=1),
    SamplingParams(temperature=1.2, top_p=0.9, seed=2),
    SamplingParams(repetition_penalty=1.3),
    SamplingParams(temperature=0.7, top_k=20, repetition_penalty=1.1, seed=3),
    SamplingParams(),
)
LENGTHS = (1, 2, 5, 9, 16, 17, 18, 24, 33, 47, 64, 65, 66, 120)
"""Of the prompts, in words; two more are long enough to outgrow the first cache."""


def question(tokenizer: FileTokenizer, text: str) -> list[int]:
    rendered = tokenizer.render([Message("user", text)])
    assert rendered is not None
    return tokenizer.encode(rendered, add_special_tokens=False)


@pytest.fixture(scope="session")
def varied(tokenizer: FileTokenizer) -> list[TokenSequence]:
    """16 sequences of many lengths and of every way of sampling, in no order."""
    random = np.random.default_rng(5)
    sequences = []
    for index, length in enumerate((*LENGTHS, 250, 300)):
        prompt = tokenizer.encode(" ".join(random.choice(WORDS.split(), length)))
        params = replace(
            WAYS[index % len(WAYS)], max_tokens=3 + (index * 5) % 9, ignore_eos=index % 2 == 0
        )
        sequences.append(TokenSequence(f"{index}", prompt, params))
    return [sequences[index] for index in random.permutation(len(sequences))]


def test_an_answer_does_not_depend_on_who_shares_the_batch(
    engine: Engine, varied: list[TokenSequence]
) -> None:
    assert engine.reproducible
    assert in_company(engine, varied) == alone(engine, varied)


def test_a_copied_beginning_gives_the_same_answer_as_a_computed_one(
    engine: Engine, tokenizer: FileTokenizer
) -> None:
    words = np.random.default_rng(len(engine.name)).choice(WORDS.split(), 300)
    rows = [
        TokenSequence(
            name, tokenizer.encode(" ".join([*words, name])), SamplingParams(max_tokens=6)
        )
        for name in ("apple", "pear", "plum", "fig")
    ]
    computed = alone(engine, rows[:2])  # a beginning is kept once it has come twice
    assert {name: in_company(engine, rows)[name] for name in computed} == computed


def test_a_question_gets_a_sensible_answer(engine: Engine, tokenizer: FileTokenizer) -> None:
    prompt = question(tokenizer, "What is the capital of France?")
    sequence = TokenSequence("q", prompt, SamplingParams(max_tokens=12))
    assert "Paris" in tokenizer.decode(alone(engine, [sequence])["q"])


def test_a_seed_repeats_an_answer_and_another_seed_does_not(
    engine: Engine, tokenizer: FileTokenizer
) -> None:
    prompt = question(tokenizer, "Tell me a story.")
    sequences = [
        TokenSequence(name, prompt, SamplingParams(max_tokens=8, temperature=1.0, seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    answers = in_company(engine, sequences, joining=[1, 0])
    assert answers["a"] == answers["b"]
    assert answers["a"] != answers["c"]


def test_an_evicted_row_leaves_the_others_as_they_are(
    engine: Engine, varied: list[TokenSequence]
) -> None:
    greedy = [TokenSequence(s.id, s.prompt[:30], SamplingParams(max_tokens=6)) for s in varied[:4]]
    expected = alone(engine, greedy)
    engine.admit(greedy)
    answers = {s.id: [] for s in greedy} | {p.sequence_id: [*p.token_ids] for p in engine.step()}
    engine.evict(greedy[0].id)
    while step := engine.step():
        for progress in step:
            answers[progress.sequence_id] += progress.token_ids
    assert answers[greedy[0].id] == expected[greedy[0].id][:1]
    assert {s.id: answers[s.id] for s in greedy[1:]} == {s.id: expected[s.id] for s in greedy[1:]}


def test_torch_answers_like_transformers_itself(
    torch_engine: TorchEngine, model_folder: ModelFolder, tokenizer: FileTokenizer
) -> None:
    folder = model_folder.format(HUGGINGFACE)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    texts = ("How do bees make honey?", "Hi!", "Name three rivers, and say where each of them ends")
    sequences = [
        TokenSequence(text, question(tokenizer, text), SamplingParams(max_tokens=10))
        for text in texts
    ]
    answers = in_company(torch_engine, sequences)
    for sequence in sequences:
        ids = torch.tensor([sequence.prompt])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10)
        expected = output[0, ids.shape[1] :].tolist()
        assert answers[sequence.id] == [token for token in expected if token != 2]
