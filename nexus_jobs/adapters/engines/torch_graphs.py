"""Decodes in a few fixed shapes, so that a step can be recorded once and replayed as one launch.

A step of a large model is hundreds of small kernels. On a GPU it takes longer to launch them from
Python than to run them; a CUDA graph launches all at once. It has fixed addresses and shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import structlog
import torch

from nexus_jobs.adapters.engines.sampling import Ints

log = structlog.get_logger(__name__)

SPAN_STRIDE: Final = 256
"""Recorded steps look at a multiple of this many keys."""
_ROWS_STRIDE: Final = 32

Run = Callable[[], None]
Recorder = Callable[[Run], Run]
"""Makes a run repeatable at once."""
Forward = Callable[[torch.Tensor, int], torch.Tensor]
"""From tokens, positions and slots [3, rows] and a span of keys to logits [rows, vocabulary]."""


class RecordedSteps:
    """A decode step for each shape that came up. Rows that pad a shape write to a spare slot."""

    def __init__(
        self, forward: Forward, record: Recorder, slots: int, device: torch.device
    ) -> None:
        """Slot number `slots` is the spare one."""
        self._forward = forward
        self._record = record
        self._slots = slots
        self._capacity = 0
        self._inputs = torch.zeros((3, slots), dtype=torch.long, device=device)
        self._logits = torch.empty(0)
        self._runs: dict[tuple[int, int], Run] = {}

    def __call__(self, inputs: Ints, span: int, capacity: int) -> torch.Tensor:
        """Logits [rows, vocabulary], which the next step overwrites.

        `inputs` [3, rows] are tokens, positions and slots. What was recorded at another `capacity`
        of the cache leads to buffers that are no more.
        """
        if capacity != self._capacity:
            self._runs.clear()
            self._capacity = capacity
        rows = inputs.shape[1]
        shape = self._padded(rows), span
        padding = np.broadcast_to([[0], [0], [self._slots]], (3, shape[0] - rows))
        self._inputs[:, : shape[0]] = torch.from_numpy(np.hstack((inputs, padding)))
        if shape not in self._runs:
            self._runs[shape] = self._recorded(*shape)
        self._runs[shape]()
        return self._logits[:rows]

    def _recorded(self, rows: int, span: int) -> Run:
        def run() -> None:
            logits = self._forward(self._inputs[:, :rows], span)
            if not len(self._logits):
                self._logits = logits.new_empty(self._slots, logits.shape[-1])
            self._logits[:rows] = logits

        run()  # what is allocated or compiled the first time cannot be recorded
        try:
            return self._record(run)
        except RuntimeError as error:  # a model that asks the device something half-way
            log.warning("torch.step_not_recorded", rows=rows, span=span, reason=str(error))
            return run

    def _padded(self, rows: int) -> int:
        """Powers of two, then multiples of the stride, so that there are few shapes."""
        padded = 1 << (rows - 1).bit_length()
        if padded > _ROWS_STRIDE:
            padded = -(-rows // _ROWS_STRIDE) * _ROWS_STRIDE
        return min(padded, self._slots)


def recorder(device: torch.device) -> Recorder | None:
    """Records runs where replaying them is faster: on CUDA, as graphs."""
    return _cuda_graphs() if device.type == "cuda" else None


def _cuda_graphs() -> Recorder:
    """The graphs share their working memory, since one runs at a time."""
    pool = torch.cuda.graph_pool_handle()

    def record(run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            run()
        return graph.replay

    return record
