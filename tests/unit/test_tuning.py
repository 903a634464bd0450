"""The load that `nexus models tune` measures, and what it makes of the measurements."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

import pytest

from nexus_jobs.adapters.engines.simulated import SimulatedEngine
from nexus_jobs.adapters.engines.words import WordTokenizer
from nexus_jobs.models import SimulatedTimes
from nexus_jobs.tuning import Measurement, Variant, best, endless_load, throughput

ONNX, TORCH = Variant("onnx", "int8"), Variant("huggingface", "bf16")


def test_the_fastest_is_best() -> None:
    slow, fast = Measurement(ONNX, 8, 100), Measurement(TORCH, 64, 200)
    assert best([slow, fast]) == best([fast, slow]) == fast


def test_slots_that_bring_next_to_nothing_are_not_taken() -> None:
    few, many = Measurement(ONNX, 32, 198), Measurement(ONNX, 96, 200)
    assert best([few, many]) == few
    assert best([Measurement(ONNX, 32, 190), many]) == many


def test_of_two_as_good_with_as_many_slots_the_faster_is_best() -> None:
    one, other = Measurement(ONNX, 32, 199), Measurement(TORCH, 32, 200)
    assert best([one, other]) == other


def test_a_row_waits_for_its_token_as_long_as_the_whole_batch_takes_a_step() -> None:
    assert Measurement(ONNX, 50, 200).ms_per_token == pytest.approx(250)


def test_a_variant_is_named_as_in_the_models_file() -> None:
    assert [str(ONNX), str(Variant("openvino"))] == ["onnx int8", "openvino"]


def test_a_full_batch_looks_from_the_start_like_one_that_has_run_for_a_while() -> None:
    lengths = [s.params.max_tokens for s in islice(endless_load(WordTokenizer(), 64), 500)]
    assert min(lengths[64:]) == 8
    assert max(lengths[64:]) == 128
    assert sum(lengths[:64]) / 64 == pytest.approx(sum(lengths[64:]) / 436 / 2, rel=0.1)


def test_no_two_rows_share_a_name() -> None:
    loads = [islice(endless_load(WordTokenizer(), slots), 300) for slots in (4, 40)]
    assert len({sequence.id for load in loads for sequence in load}) == 600


class SteadyClock:
    """Goes on by a hundredth of a second whenever somebody looks at it."""

    def __init__(self) -> None:
        self._ticks: Iterator[int] = count()

    def __call__(self) -> float:
        return next(self._ticks) / 100


@pytest.mark.parametrize("slots", [1, 8])
def test_throughput_is_that_of_a_full_batch_and_leaves_the_engine_empty(slots: int) -> None:
    engine = SimulatedEngine(SimulatedTimes(), 8, 2048)
    load = endless_load(engine.tokenizer, slots)
    speed = throughput(engine, load, slots=slots, seconds=2, clock=SteadyClock())
    assert speed == pytest.approx(100 * slots, rel=0.05)
    assert engine.step() == []
