"""Rewrites the matrix products of a float32 ONNX model as products of 8-bit integers.

A column of weights has one scale. A row of activations has one too and is split into two planes,
`x = peak * (high + low / 254) / 127`, because 8 bits are too few for the outliers of a language
model. Sums of integers are exact, so that a row's result does not depend on the rows beside it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from nexus_jobs.adapters.processor import AMX, PROCESSOR

_MODEL: Final = "model.onnx"
_STEP: Final = 1 / 127
"""One unit of the high plane, of activations between -1 and 1."""
_FINE_STEP: Final = _STEP / 254
"""One unit of the low plane: half a unit of the high one is its greatest."""
_TINY: Final = 1e-9
"""The least peak, so that a row of zeros is not divided by zero."""
_CONSTANTS: Final[dict[str, NDArray[Any]]] = {
    "int8/step": np.array(_STEP, np.float32),
    "int8/fine_step": np.array(_FINE_STEP, np.float32),
    "int8/zero": np.array(128, np.uint8),
    "int8/tiny": np.array(_TINY, np.float32),
    "int8/last_axis": np.array([-1], np.int64),
}


def quantise(source: Path, target: Path) -> None:
    """Write the model in the folder `source` to the folder `target`, with the files beside it."""
    for file in source.iterdir():
        if not file.name.startswith(_MODEL):
            shutil.copyfile(file, target / file.name)
    model = onnx.load(source / _MODEL)
    _Rewriter(model.graph).rewrite()
    helper.set_model_props(model, {PROCESSOR: AMX})
    onnx.save(
        model,
        target / _MODEL,
        save_as_external_data=True,
        location=f"{_MODEL}.data",
    )
    (target / f"{_MODEL}.data").chmod(0o644)


class _Rewriter:
    """Replaces every product with a constant matrix; products that share an input share planes."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._constants = [numpy_helper.from_array(v, name) for name, v in _CONSTANTS.items()]
        self._nodes: list[onnx.NodeProto] = []
        self._planes: dict[str, tuple[str, str, str]] = {}

    def rewrite(self) -> None:
        for node in self._graph.node:
            if node.op_type == "MatMul" and node.input[1] in self._weights:
                self._replace(node)
            else:
                self._nodes.append(node)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for name, tensor in self._weights.items() if name in used]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend([*kept, *self._constants])

    def _replace(self, node: onnx.NodeProto) -> None:
        x, weight = node.input
        if x not in self._planes:
            self._planes[x] = self._split(x)
        high, low, peak = self._planes[x]
        integers, scales = _columns(numpy_helper.to_array(self._weights[weight]))
        matrix = self._constant(f"{node.name}/int8", integers)
        scale = self._constant(f"{node.name}/scale", scales)
        parts = [
            self._add(
                "MatMulIntegerToFloat",
                [plane, matrix, step, scale, "int8/zero"],
                f"{node.name}/{step}",
                domain="com.microsoft",
            )
            for plane, step in ((high, "int8/step"), (low, "int8/fine_step"))
        ]
        self._add("Mul", [self._add("Add", parts, f"{node.name}/sum"), peak], node.output[0])

    def _split(self, x: str) -> tuple[str, str, str]:
        """The two planes of `x` [batch, tokens, size] and the peak [batch, tokens, 1]."""
        size = self._add("Abs", [x], f"{x}/size")
        most = self._add("ReduceMax", [size, "int8/last_axis"], f"{x}/most", keepdims=1)
        peak = self._add("Max", [most, "int8/tiny"], f"{x}/peak")
        unit = self._add("Div", [x, peak], f"{x}/unit")
        high = self._add("QuantizeLinear", [unit, "int8/step", "int8/zero"], f"{x}/high")
        near = self._add("DequantizeLinear", [high, "int8/step", "int8/zero"], f"{x}/near")
        rest = self._add("Sub", [unit, near], f"{x}/rest")
        low = self._add("QuantizeLinear", [rest, "int8/fine_step", "int8/zero"], f"{x}/low")
        return high, low, peak

    def _add(
        self, kind: str, inputs: list[str], output: str, *, domain: str = "", **attributes: Any
    ) -> str:
        node = helper.make_node(kind, inputs, [output], output, domain=domain, **attributes)
        self._nodes.append(node)
        return output

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self._constants.append(numpy_helper.from_array(value, name))
        return name


def _columns(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers and the scale of each column of `weight` [in, out]."""
    scales = np.maximum(np.abs(weight).max(axis=0), _TINY) * np.float32(_STEP)
    return np.rint(weight / scales).astype(np.int8), scales
