"""The list of models on this machine, whole or not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from nexus_jobs.adapters.model_folder import ModelFolder

PARTIAL: Final = ".partial"
"""Ends the name of the hidden folder that a model is written to until it is complete."""


class FolderState(StrEnum):
    """Where a model folder stands."""

    PULLED = "pulled"
    PARTIAL = "partial"  # a pull is under way, or was interrupted
    DAMAGED = "damaged"  # files are missing or incomplete; pull it again


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One line of a list of models; `precision` is that of the weights as they were pulled."""

    name: str
    state: FolderState
    formats: Collection[str] = ()
    source: str | None = None
    precision: str | None = None
    size: int = 0
    reason: str | None = None


def list_models(models_dir: Path) -> list[ModelEntry]:
    """The models in the model root, by name."""
    if not models_dir.is_dir():
        return []
    entries = [_entry(path) for path in models_dir.iterdir() if path.is_dir()]
    return sorted(entries, key=lambda entry: entry.name)


def _entry(path: Path) -> ModelEntry:
    if path.name.startswith("."):
        name = path.name.removeprefix(".").removesuffix(PARTIAL)
        return ModelEntry(name=name, state=FolderState.PARTIAL, reason="the pull has not ended")
    try:
        folder = ModelFolder.open(path)
    except ValueError as error:
        return ModelEntry(name=path.name, state=FolderState.DAMAGED, reason=str(error))
    return ModelEntry(
        name=folder.name,
        state=FolderState.PULLED,
        formats=folder.formats,
        source=folder.manifest.source,
        precision=folder.manifest.precision,
        size=folder.size,
    )
