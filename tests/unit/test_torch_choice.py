from __future__ import annotations

import numpy as np
import pytest
import torch

from nexus_jobs.adapters.engines.sampling import Sampler, choose
from nexus_jobs.adapters.engines.torch_choice import choose_on_device
from nexus_jobs.job import SamplingParams

WAYS = (
    SamplingParams(),
    SamplingParams(ignore_eos=True),
    SamplingParams(min_tokens=2),
    SamplingParams(temperature=0.8, seed=1),
    SamplingParams(temperature=1.1, top_p=0.9, top_k=7, seed=2, ignore_eos=True),
    SamplingParams(repetition_penalty=1.4),
    SamplingParams(repetition_penalty=1.4, temperature=0.7, seed=3),
)


def samplers(ways: tuple[SamplingParams, ...]) -> list[Sampler]:
    return [Sampler(params, prompt=range(40, 60), eos=[2, 5]) for params in ways]


@pytest.mark.parametrize("ways", [WAYS, WAYS[:1], WAYS[3:4], WAYS[1:3]])
def test_rows_get_the_same_tokens_as_from_logits_on_the_host(
    ways: tuple[SamplingParams, ...],
) -> None:
    here, there = samplers(ways), samplers(ways)
    random = np.random.default_rng(0)
    for _ in range(40):
        logits = random.normal(scale=3, size=(len(ways), 80)).astype(np.float32)
        logits[:, [2, 5]] += 4  # the ends would often win
        expected = choose(logits.copy(), here)
        assert choose_on_device(torch.from_numpy(logits), there) == expected
        for sampler, token in zip((*here, *there), expected * 2, strict=True):
            sampler.accept(token)


def test_of_equal_logits_the_first_token_wins_as_on_the_host() -> None:
    logits = torch.zeros(3, 100)
    logits[:, [30, 31, 90]] = 1
    assert choose_on_device(logits, samplers(WAYS[:3])) == [30, 30, 30]


def test_a_model_without_an_end_can_be_told_to_ignore_it() -> None:
    endless = Sampler(SamplingParams(ignore_eos=True), prompt=[], eos=[])
    assert choose_on_device(torch.tensor([[0.0, 2.0, 1.0]]), [endless]) == [1]
