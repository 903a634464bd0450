"""Imports packages that only some installations have."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from nexus_jobs.errors import ModelUnavailable


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, which the extra `extra` of this package installs.

    Raises:
        ModelUnavailable: it cannot be imported; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(module, extra, str(error)) from error


def check_installed(*modules: str, extra: str) -> None:
    """Make sure that `modules` could be imported, without the time it takes to import them.

    Raises:
        ModelUnavailable: one is not installed; the message says what to install.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise _missing(module, extra, "not installed")


def _missing(module: str, extra: str, reason: str) -> ModelUnavailable:
    return ModelUnavailable(
        f'this needs the package {module} ({reason}); run: pip install "nexus-jobs[{extra}]"'
    )
