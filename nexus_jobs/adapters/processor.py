"""What the processor of this machine can do."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

AMX: Final = "amx_int8"
"""Multiplies tiles of 8-bit integers, many times faster than anything before it."""

PROCESSOR: Final = "processor"
"""Property of an ONNX model: the feature without which its products are slow, or even overflow."""


def can(feature: str) -> bool:
    """Whether the processor has a feature, by the name that Linux gives it."""
    return feature in _features()


@cache
def _features() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split() for line in lines if line.startswith("flags")), ()))
