"""Makes a model on a CPU round a row alike in every batch."""

from __future__ import annotations

from typing import Final

import torch
from torch.nn import Linear, Module
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

_FEWEST_ROWS: Final = 4
"""MKL has other kernels for fewer, which round differently (seen on an AMD EPYC with AVX2)."""
_DECODE_BLOCK: Final = 32
_PREFILL_BLOCK: Final = 128
"""Rows of one bf16 multiplication: few enough that padding costs little, many enough to be fast.
oneDNN picks a kernel by the shape of its operands, so that here all passes of a kind have one.
"""


class _Blockwise(Module):
    """Multiplies rows in blocks of a size that hides how many there are; pads the last block."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.reshape(-1, input.shape[-1])
        if input.dtype is torch.bfloat16:
            size = _DECODE_BLOCK if input.shape[-2] == 1 else _PREFILL_BLOCK
        else:
            size = max(_FEWEST_ROWS, len(rows))
        blocks = pad(rows, (0, 0, 0, -len(rows) % size)).reshape(-1, size, input.shape[-1])
        outputs = torch.cat([super(_Blockwise, self).forward(block) for block in blocks])
        return outputs[: len(rows)].reshape(*input.shape[:-1], outputs.shape[-1])


class BlockLinear(_Blockwise, Linear):
    """A linear layer."""


class BlockConv1D(_Blockwise, Conv1D):
    """The linear layer of GPT-2 and its like."""


_BLOCKWISE: Final = {Linear: BlockLinear, Conv1D: BlockConv1D}


def use_blocks(model: Module) -> None:
    """Turn the linear layers of `model` into block-wise ones, in place."""
    for module in model.modules():
        module.__class__ = _BLOCKWISE.get(type(module), type(module))
