"""Runs one engine alone over prompts of mixed lengths, in several orders; prints tokens a second.

python -m loadtests.engine_bench onnx huggingface --requests 96 --slots 16
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nexus_jobs.adapters.engines.build import build_engine
from nexus_jobs.config import load_settings
from nexus_jobs.engine import Engine, TokenSequence
from nexus_jobs.models import ModelConfig
from nexus_jobs.tuning import mixed_sequences

CLIENTS = 16


@dataclass(frozen=True)
class Throughput:
    """What a run produced."""

    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def run_all(engine: Engine, sequences: Sequence[TokenSequence], slots: int) -> Throughput:
    """The best order of an offline run: longest answers first, a free slot filled at once."""
    return run(engine, sorted(sequences, key=_answer, reverse=True), slots)


def run(engine: Engine, sequences: Sequence[TokenSequence], width: int) -> Throughput:
    """Run the sequences as they come, with at most `width` at a time."""
    waiting = list(reversed(sequences))
    running = tokens = 0
    started = time.perf_counter()
    while waiting or running:
        joining = [waiting.pop() for _ in range(min(width - running, len(waiting)))]
        if joining:
            engine.admit(joining)
        running += len(joining)
        for progress in engine.step():
            tokens += len(progress.token_ids)
            running -= progress.finish_reason is not None
    return Throughput(tokens, time.perf_counter() - started)


def run_static(engine: Engine, sequences: Sequence[TokenSequence], width: int) -> Throughput:
    """Run batches of `width`, each to the end of its longest row, and count what was asked for."""
    seconds = 0.0
    for first in range(0, len(sequences), width):
        batch = sequences[first : first + width]
        longest = replace(batch[0].params, max_tokens=max(map(_answer, batch)))
        seconds += run(engine, [replace(row, params=longest) for row in batch], width).seconds
    return Throughput(sum(map(_answer, sequences)), seconds)


def measure(
    engine: Engine, sequences: Sequence[TokenSequence], singles: int
) -> Iterator[tuple[str, Throughput]]:
    """What each order produces; only `singles` of the sequences run one by one."""
    slots, by_prompt = engine.slots, sorted(sequences, key=lambda row: len(row.prompt))
    run_all(engine, sequences[:slots], slots)
    yield "all at once", run_all(engine, sequences, slots)
    yield f"{CLIENTS} clients", run(engine, sequences, min(CLIENTS, slots))
    yield "static batches", run_static(engine, sequences, slots)
    yield "static, like prompts together", run_static(engine, by_prompt, slots)
    yield "one by one", run(engine, sequences[:singles], 1)


def _answer(sequence: TokenSequence) -> int:
    return sequence.params.max_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="+", help="openvino, onnx, huggingface")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--one-by-one", type=int, default=8, help="how many to run one by one")
    arguments = parser.parse_args()
    settings = load_settings()
    for kind in arguments.types:
        config = ModelConfig(
            name=arguments.model, type=kind, device="cpu", max_batch_size=arguments.slots
        )
        engine = build_engine(config, models_dir=settings.models_dir, threads=arguments.threads)
        sequences = mixed_sequences(engine.tokenizer, arguments.requests)
        print(f"{engine.name}, {engine.slots} slots, tokens/s")
        for order, result in measure(engine, sequences, arguments.one_by_one):
            print(f"  {order:30} {result.tokens_per_second:6.0f}", flush=True)
        engine.close()


if __name__ == "__main__":
    main()
