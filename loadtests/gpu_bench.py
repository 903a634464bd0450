"""Compares torch's ways to run mixed lengths, and measures how near decoding is to the roofline.

    python -m loadtests.gpu_bench --size 8b --slots 1 8 64 256
    python -m loadtests.gpu_bench --size tiny --device cpu --slots 1 4

The models have real shapes and random weights. Prints tables; writes loadtests/results/gpu.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig

from loadtests.engine_bench import Throughput
from loadtests.roofline import copy_bandwidth, decode_step
from loadtests.torch_ways import continuous_batches, mixed_rows, ours, static_batches
from nexus_jobs.errors import NexusError

RESULTS = Path(__file__).parent / "results" / "gpu.json"


@dataclass(frozen=True)
class Size:
    """A shape of Llama, and the lengths of the rows that go through it."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_value_heads: int
    head: int
    vocabulary: int
    longest_prompt: int = 512
    longest_answer: int = 256
    copy_megabytes: int = 1024

    @property
    def longest(self) -> int:
        return self.longest_prompt + self.longest_answer


SIZES = {
    "tiny": Size(64, 128, 2, 4, 2, 16, 512, 32, 16, 64),
    "1b": Size(2048, 8192, 16, 32, 8, 64, 128256),  # the shapes of Llama 3.2 1B and 3B, 3.1 8B
    "3b": Size(3072, 8192, 28, 24, 8, 128, 128256),
    "8b": Size(4096, 14336, 32, 32, 8, 128, 128256),
}


def random_model(size: Size, device: torch.device) -> Any:
    """A bfloat16 Llama of this size, made on the device."""
    config = LlamaConfig(
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
        head_dim=size.head,
        vocab_size=size.vocabulary,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def compare(model: Any, size: Size, slots: int, requests: int) -> list[dict[str, Any]]:
    """The same rows in every way; one that fails says why.

    Steps are recorded as CUDA graphs on CUDA only: on a CPU the first two ways are the same.
    """
    rows = mixed_rows(size.vocabulary, requests, size.longest_prompt, size.longest_answer)
    ways: dict[str, Callable[[], Throughput]] = {
        "ours": partial(ours, model, rows, slots, size.longest),
        "ours, step by step": partial(ours, model, rows, slots, size.longest, recorded=False),
        "generate, static": partial(static_batches, model, rows, slots),
        "transformers, continuous": partial(continuous_batches, model, rows, slots),
    }
    return [{"slots": slots, "way": way} | _outcome(run) for way, run in ways.items()]


def _outcome(run: Callable[[], Throughput]) -> dict[str, Any]:
    try:
        result = run()
    except (
        NexusError,
        RuntimeError,
        ValueError,
    ) as error:  # out of memory, or not made for this device
        return {"error": str(error).splitlines()[0]}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return asdict(result) | {"tokens_per_second": result.tokens_per_second}


def roofline(model: Any, size: Size, slots: Sequence[int]) -> list[dict[str, Any]]:
    """Decode steps with so many rows, half a longest row each."""
    bandwidth = copy_bandwidth(model.device, size.copy_megabytes)
    steps = [decode_step(model, rows, size.longest // 2, bandwidth) for rows in slots]
    return [asdict(step) | {"share_of_roofline": step.share_of_roofline} for step in steps]


def show(results: dict[str, Any]) -> None:
    ways = Table("slots", "way", "tokens/s", title=f"{results['size']} on {results['device']}")
    for way in results["ways"]:
        rate = way.get("tokens_per_second")
        ways.add_row(str(way["slots"]), way["way"], way["error"] if rate is None else f"{rate:.0f}")
    steps = Table("rows", "tokens each", "ms a step", "of the roofline", title="Decode steps")
    for step in results["roofline"]:
        milliseconds, share = f"{1000 * step['seconds']:.2f}", f"{step['share_of_roofline']:.0%}"
        steps.add_row(str(step["rows"]), str(step["length"]), milliseconds, share)
    console = Console()
    console.print(ways, steps)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no CUDA device here; run it with --device cpu --size tiny.")
    if options.device == "cpu" and options.size != "tiny":
        sys.exit(f"On a CPU {options.size} would take hours; run it with --size tiny.")
    device, size = torch.device(options.device), SIZES[options.size]
    model = random_model(size, device)
    results = {
        "size": options.size,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "ways": [
            way for slots in options.slots for way in compare(model, size, slots, options.requests)
        ],
        "roofline": roofline(model, size, options.slots),
    }
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n")
    show(results)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--size", default="1b", choices=list(SIZES))
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
