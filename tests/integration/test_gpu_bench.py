"""The comparison of torch's ways to run a batch, on a model small enough for a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from loadtests import gpu_bench
from loadtests.gpu_bench import SIZES, random_model
from loadtests.roofline import DecodeStep, decode_step
from loadtests.torch_ways import mixed_rows


def test_it_compares_all_ways_on_a_cpu(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    options = "--device cpu --size tiny --slots 1 4 --requests 6 --output"
    gpu_bench.main([*options.split(), str(output)])
    results = json.loads(output.read_text())
    tokens = {way["tokens"] for way in results["ways"]}
    assert len(results["ways"]) == 8
    assert tokens == {sum(row.params.max_tokens for row in mixed_rows(512, 6, 32, 16))}
    assert [step["rows"] for step in results["roofline"]] == [1, 4]


def test_a_step_reads_all_weights_and_what_is_cached() -> None:
    model = random_model(SIZES["tiny"], torch.device("cpu"))
    step = decode_step(model, rows=3, length=10, bandwidth=1e9)
    cached = 3 * 10 * 2 * 2 * 2 * 16 * 2  # rows, tokens, kinds, layers, heads, size, bytes
    weights = 2 * sum(weight.numel() for weight in model.parameters()) - 2 * 512 * 64
    assert step.bytes_read == weights + cached


def test_a_step_that_takes_twice_the_least_time_is_at_half_the_roofline() -> None:
    assert DecodeStep(1, 1, 2.0, 500, 500.0).share_of_roofline == 0.5


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--device", "cuda"], "no CUDA device"), (["--device", "cpu"], "with --size tiny")],
)
def test_what_cannot_run_here_says_so(
    options: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=reason):
        gpu_bench.main(options)


def test_a_way_that_fails_says_why_and_the_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no room for the cache\nand more lines")

    monkeypatch.setattr(gpu_bench, "ours", fail)
    model = random_model(SIZES["tiny"], torch.device("cpu"))
    ways = {way["way"]: way for way in gpu_bench.compare(model, SIZES["tiny"], 2, 2)}
    assert ways["ours"]["error"] == "no room for the cache"
    assert ways["generate, static"]["tokens"] == ways["transformers, continuous"]["tokens"] > 0
