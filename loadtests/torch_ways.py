"""Three ways to run the same rows on the same torch model: ours, and two of transformers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig
from transformers.generation import ContinuousBatchingConfig

from loadtests.engine_bench import Throughput, run_all
from nexus_jobs.adapters.engines.torch import ModelEngine
from nexus_jobs.adapters.engines.torch_graphs import recorder
from nexus_jobs.adapters.engines.words import WordTokenizer
from nexus_jobs.engine import TokenSequence
from nexus_jobs.job import SamplingParams

BATCH_TOKENS = 4096
"""Prompt tokens a step, for ours and for transformers' continuous batching."""
_PAGE = 256


def mixed_rows(
    vocabulary: int, count: int, longest_prompt: int, longest_answer: int
) -> list[TokenSequence]:
    """Random prompts and greedy answers, of all lengths from an eighth of the longest on."""
    random = np.random.default_rng(11)
    return [
        TokenSequence(
            id=str(index),
            prompt=random.integers(3, vocabulary, _spread(37 * index, longest_prompt)).tolist(),
            params=SamplingParams(max_tokens=_spread(53 * index, longest_answer), ignore_eos=True),
        )
        for index in range(count)
    ]


def _spread(step: int, longest: int) -> int:
    shortest = max(1, longest // 8)
    return shortest + step % (longest - shortest + 1)


def ours(
    model: Any, rows: Sequence[TokenSequence], slots: int, longest: int, *, recorded: bool = True
) -> Throughput:
    """The engine's own loop; `longest` is a row's prompt and answer together."""
    record = recorder(model.device) if recorded else None
    engine = ModelEngine(
        model,
        name="torch",
        tokenizer=WordTokenizer(),
        slots=slots,
        max_sequence_length=longest,
        max_batch_tokens=BATCH_TOKENS,
        eos=(),
        record=record,
    )
    run_all(engine, rows, slots)  # once over all shapes that will come up
    result = run_all(engine, rows, slots)
    engine.close()
    return result


def static_batches(model: Any, rows: Sequence[TokenSequence], slots: int) -> Throughput:
    """`model.generate` on batches as they come; each takes as long as its longest answer."""
    _generate(model, rows[:slots], 2)
    started = time.perf_counter()
    remaining = iter(rows)
    while batch := list(islice(remaining, slots)):
        _generate(model, batch, max(row.params.max_tokens for row in batch))
    return Throughput(sum(row.params.max_tokens for row in rows), time.perf_counter() - started)


def _generate(model: Any, batch: Sequence[TokenSequence], tokens: int) -> None:
    ids, mask = _padded(batch, model.device)
    config = GenerationConfig(
        do_sample=False, eos_token_id=None, pad_token_id=0, max_new_tokens=tokens
    )
    model.generate(ids, attention_mask=mask, generation_config=config).cpu()


def continuous_batches(model: Any, rows: Sequence[TokenSequence], slots: int) -> Throughput:
    """transformers' own continuous batching.

    Raises:
        RuntimeError: it stopped before all rows were done.
    """
    longest = max(len(row.prompt) + row.params.max_tokens for row in rows)
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=_PAGE,
            num_blocks=slots * -(-longest // _PAGE) + 1,
            max_batch_tokens=max(BATCH_TOKENS, slots),
            max_requests_per_batch=slots,
        ),
    )
    try:
        manager.warmup()
        manager.start()
        manager.add_request(rows[0].prompt, "warm-up", max_new_tokens=2)
        list(_ended(manager, 1))
        started = time.perf_counter()
        for row in rows:
            manager.add_request(row.prompt, row.id, max_new_tokens=row.params.max_tokens)
        tokens = sum(len(ended.generated_tokens) for ended in _ended(manager, len(rows)))
        return Throughput(tokens, time.perf_counter() - started)
    finally:
        manager.stop(block=True)
        manager.destroy()


def _ended(manager: Any, count: int) -> Iterator[Any]:
    while count:
        result = manager.get_result(timeout=1)
        if result is None and not manager.is_running():
            raise RuntimeError("transformers' continuous batching stopped by itself")
        if result is not None and result.is_finished():
            if result.error:
                raise RuntimeError(f"transformers' continuous batching: {result.error}")
            count -= 1
            yield result


def _padded(batch: Sequence[TokenSequence], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [rows, length], padded on the left."""
    length = max(len(row.prompt) for row in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(batch):
        ids[index, length - len(row.prompt) :] = torch.tensor(row.prompt)
        mask[index, length - len(row.prompt) :] = 1
    return ids.to(device), mask.to(device)
