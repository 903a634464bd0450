"""Runs one engine alone over prompts of mixed lengths and prints tokens per second.

    python loadtests/engine_bench.py onnx huggingface --requests 96 --slots 16

The order is the best an offline run can have: longest answers first, a free slot filled at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

from nexus_jobs.adapters.engines.build import build_engine
from nexus_jobs.config import ModelConfig, load_settings
from nexus_jobs.ports import Engine, TokenSequence
from nexus_jobs.tuning import mixed_sequences


@dataclass(frozen=True)
class Throughput:
    """What a run produced."""

    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def run_all(engine: Engine, sequences: Sequence[TokenSequence], slots: int) -> Throughput:
    """Run the sequences with at most `slots` at a time."""
    waiting = sorted(sequences, key=lambda sequence: sequence.params.max_tokens)
    running = tokens = 0
    started = time.perf_counter()
    while waiting or running:
        free = slots - running
        joining = [waiting.pop() for _ in range(min(free, len(waiting)))]
        if joining:
            engine.admit(joining)
        running += len(joining)
        for progress in engine.step():
            tokens += len(progress.token_ids)
            running -= progress.finish_reason is not None
    return Throughput(tokens, time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="+", help="openvino, onnx, huggingface")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one-by-one", type=int, default=24, help="how many to run one by one")
    arguments = parser.parse_args()
    settings = load_settings()
    for kind in arguments.types:
        config = ModelConfig(
            name=arguments.model, type=kind, device="cpu", max_batch_size=arguments.slots
        )
        engine = build_engine(config, models_dir=settings.models_dir, threads=arguments.threads)
        sequences = mixed_sequences(engine.tokenizer, arguments.requests)
        run_all(engine, sequences[: arguments.slots], arguments.slots)
        batched = run_all(engine, sequences, arguments.slots).tokens_per_second
        single = run_all(engine, sequences[: arguments.one_by_one], 1).tokens_per_second
        print(
            f"{engine.name}: {batched:.0f} tokens/s with {arguments.slots} slots, "
            f"{single:.0f} one by one, {batched / single:.1f} times"
        )
        engine.close()


if __name__ == "__main__":
    main()
