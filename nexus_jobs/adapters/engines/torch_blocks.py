"""Makes bfloat16 on a CPU round a row alike in every batch."""

from __future__ import annotations

from typing import Final

import torch
from torch.nn import Linear, Module
from torch.nn.functional import linear, pad

_DECODE_BLOCK: Final = 32
_PREFILL_BLOCK: Final = 128
"""Rows of one multiplication: few enough that padding costs little, many enough to be fast."""


class BlockLinear(Linear):
    """Multiplies a fixed number of rows at a time, and pads the last block.

    oneDNN picks a kernel by the shape of its operands, and its kernels do not round alike. Here all
    passes of a kind have one shape, whoever is in the batch.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        size = _DECODE_BLOCK if input.shape[-2] == 1 else _PREFILL_BLOCK
        rows = input.reshape(-1, self.in_features)
        blocks = pad(rows, (0, 0, 0, -len(rows) % size)).reshape(-1, size, self.in_features)
        outputs = torch.cat([linear(block, self.weight, self.bias) for block in blocks])
        return outputs[: len(rows)].reshape(*input.shape[:-1], self.out_features)


def use_blocks(model: Module) -> None:
    """Turn the linear layers of `model` into block-wise ones, in place."""
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = BlockLinear
