"""Makes bfloat16 on a CPU round a row alike in every batch."""

from __future__ import annotations

from typing import Final

import torch
from torch.nn import Linear, Module
from torch.nn.functional import linear, pad

BLOCK: Final = 32
"""Rows of one multiplication: two tiles of AMX. Fewer would cost as much, and more than this is
where oneDNN begins to split the sum over the inputs in other ways.
"""


class BlockLinear(Linear):
    """Multiplies `BLOCK` rows at a time, and pads the last block.

    oneDNN picks a kernel by the shape of its operands, and its kernels do not round alike; here all
    shapes are one.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.reshape(-1, self.in_features)
        blocks = pad(rows, (0, 0, 0, -len(rows) % BLOCK)).reshape(-1, BLOCK, self.in_features)
        outputs = torch.cat([linear(block, self.weight, self.bias) for block in blocks])
        return outputs[: len(rows)].reshape(*input.shape[:-1], self.out_features)


def use_blocks(model: Module) -> None:
    """Turn the linear layers of `model` into block-wise ones, in place."""
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = BlockLinear
