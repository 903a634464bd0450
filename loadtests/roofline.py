"""How near decoding comes to what the memory of a device allows.

A decode step has to read all weights and the cached keys and values of every row, and does little
else with them: on a GPU it is bound by memory until there are hundreds of rows (Williams et al.
2009, Roofline).
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nexus_jobs.adapters.engines.torch_backend import TorchBackend
from nexus_jobs.adapters.engines.torch_graphs import recorder

_STEPS = 20


@dataclass(frozen=True)
class DecodeStep:
    """One step of `rows` that hold `length` tokens each; `bandwidth` is in bytes per second."""

    rows: int
    length: int
    seconds: float
    bytes_read: int
    bandwidth: float

    @property
    def share_of_roofline(self) -> float:
        return self.bytes_read / self.bandwidth / self.seconds


def decode_step(model: Any, rows: int, length: int, bandwidth: float) -> DecodeStep:
    """The median of some steps on a cache that is full up to `length`."""
    backend = TorchBackend(model, rows, length + _STEPS + 3, recorder(model.device))
    backend.prefill(0, np.ones((rows, length), np.int64), 0)
    tokens, lengths, times = np.ones(rows, np.int64), np.full(rows, length), []
    for _ in range(_STEPS + 3):
        started = time.perf_counter()
        backend.decode(tokens, lengths)  # returns on the host, so the device has done it all
        times.append(time.perf_counter() - started)
        lengths = lengths + 1
    read = _weight_bytes(model) + rows * length * _token_bytes(model)
    return DecodeStep(rows, length, statistics.median(times[3:]), read, bandwidth)


def copy_bandwidth(device: torch.device, megabytes: int) -> float:
    """Bytes read and written per second when the device copies a tensor; the best of ten."""
    source = torch.ones(megabytes << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        _synchronise(device)
        started = time.perf_counter()
        target.copy_(source)
        _synchronise(device)
        best = min(best, time.perf_counter() - started)
    return 2 * source.nbytes / best


def _weight_bytes(model: Any) -> int:
    """What a step reads of the weights; next to none of an embedding that is not the output too."""
    embedding = model.get_input_embeddings().weight
    unread = 0 if embedding is model.get_output_embeddings().weight else embedding.nbytes
    return sum(weight.nbytes for weight in model.parameters()) - unread


def _token_bytes(model: Any) -> int:
    """Keys and values of one token in all layers."""
    config = model.config
    return int(
        2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        * model.dtype.itemsize
    )  # fmt: skip


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
