"""Imports packages that only some installations have."""

from __future__ import annotations

import importlib
from types import ModuleType

from nexus_jobs.errors import ModelUnavailable


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, which the extra `extra` of this package installs.

    Raises:
        ModelUnavailable: it is not installed, or does not load; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelUnavailable(
            f"this needs the package {module}, which cannot be imported ({error}): "
            f'pip install "nexus-jobs[{extra}]"'
        ) from error
