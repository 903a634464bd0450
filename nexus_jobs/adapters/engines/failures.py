"""Whatever a library raises while it runs a batch, as one of our errors."""

from __future__ import annotations

import re
from typing import Final

from nexus_jobs.errors import EngineError, OutOfMemory

_OUT_OF_MEMORY: Final = re.compile(
    r"out of memory|bad.?alloc|can't allocate memory|failed to allocate", re.IGNORECASE
)
"""How CUDA, C++ and PyTorch's and ONNX Runtime's own allocators put it."""


def engine_error(engine: str, error: Exception, reason: str | None = None) -> EngineError:
    """What went wrong in `engine`: the `reason`, or the first line of what its library says."""
    said = str(error).strip()
    short = isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(said)
    kind = OutOfMemory if short else EngineError
    return kind(f"{engine}: {reason or said.partition(chr(10))[0] or type(error).__name__}")
