from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from nexus_jobs.adapters.engines.sampling import Floats
from nexus_jobs.adapters.onnx_int8 import quantise

IN, OUT = 96, 40


@pytest.fixture
def weight() -> Floats:
    return np.random.default_rng(1).normal(size=(IN, OUT)).astype(np.float32)


@pytest.fixture
def session(tmp_path: Path, weight: Floats) -> ort.InferenceSession:
    """A quantised model: a product with a constant, and one of its result with itself."""
    (tmp_path / "fp32").mkdir()
    (tmp_path / "int8").mkdir()
    (tmp_path / "fp32" / "genai_config.json").write_text("{}")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weight"], ["y"], "of a constant"),
            helper.make_node("Transpose", ["y"], ["yt"], perm=(0, 2, 1)),
            helper.make_node("MatMul", ["y", "yt"], ["yy"], "of activations"),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None, IN])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None, OUT]),
            helper.make_tensor_value_info("yy", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(weight, "weight")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "fp32" / "model.onnx")
    quantise(tmp_path / "fp32", tmp_path / "int8")
    assert (tmp_path / "int8" / "genai_config.json").exists()
    return ort.InferenceSession(tmp_path / "int8" / "model.onnx")


def rows(count: int) -> Floats:
    """Activations with outliers a hundred times as large as the rest, as language models have."""
    x = np.random.default_rng(2).normal(size=(count, 1, IN)).astype(np.float32)
    x[:, :, 7] *= 100
    return x


def test_products_stay_near_to_float32_beside_outliers(
    session: ort.InferenceSession, weight: Floats
) -> None:
    x = rows(5)
    y, _ = session.run(None, {"x": x})
    off = np.abs(y - x @ weight).max(axis=-1) / np.abs(x @ weight).max(axis=-1)
    assert off.max() < 0.01


def test_small_activations_survive_large_ones(
    session: ort.InferenceSession, weight: Floats
) -> None:
    x = np.zeros((1, 1, IN), np.float32)
    x[0, 0, 0] = 1
    alone, _ = session.run(None, {"x": x})
    x[0, 0, 1] = 200
    x[0, 0, 0] = 0
    without, _ = session.run(None, {"x": x})
    x[0, 0, 0] = 1
    beside, _ = session.run(None, {"x": x})
    assert np.abs(beside - without - alone).max() < 0.01 * np.abs(alone).max()


def test_a_row_has_the_same_result_in_any_company(session: ort.InferenceSession) -> None:
    x = rows(33)
    together, _ = session.run(None, {"x": x})
    for index in range(len(x)):
        (alone, _) = session.run(None, {"x": x[index : index + 1]})
        assert np.array_equal(alone[0], together[index])


def test_a_row_of_zeros_stays_one(session: ort.InferenceSession) -> None:
    y, _ = session.run(None, {"x": np.zeros((1, 1, IN), np.float32)})
    assert not y.any()


def test_a_product_of_activations_is_left_alone(session: ort.InferenceSession) -> None:
    y, yy = session.run(None, {"x": rows(6).reshape(1, 6, IN)})
    assert np.allclose(yy, y @ y.transpose(0, 2, 1), rtol=1e-5)
