"""Which weights may be loaded: in forms that run no code, under the model root, as pinned."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Final

import orjson

from nexus_jobs.adapters.model_folder import GGUF, HUGGINGFACE, ONNX, ModelFolder, sha256
from nexus_jobs.errors import WeightsRefused, WrongRevision
from nexus_jobs.models import ModelConfig

DIGEST_PREFIX: Final = "sha256:"
_WEIGHTS: Final = (".gguf", ".safetensors", ".onnx", ".onnx.data", ".onnx_data")
_PICKLES: Final = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def check_files(folder: Path, models_dir: Path) -> None:
    """Check all that lies in a model's folder; one that does not exist has nothing wrong in it.

    Raises:
        WeightsRefused: a link leads out of the model root, or a file could bring code along.
    """
    root = models_dir.resolve()
    for file in sorted(folder.rglob("*")):
        if not file.resolve().is_relative_to(root):
            raise WeightsRefused(
                f"{file} leads out of the model root {models_dir}; put a copy in its place"
            )
        if file.suffix in _PICKLES:
            raise WeightsRefused(
                f"{file} is pickled, and loading that can run foreign code; "
                "use safetensors, GGUF or ONNX, and take this file away"
            )
        if file.name == "config.json" and _names_code(file):
            raise WeightsRefused(
                f"{file} asks for code of the model's own (auto_map), which is never run; save "
                "the model with a class of transformers itself"
            )


def _names_code(config: Path) -> bool:
    try:
        document = orjson.loads(config.read_bytes())
    except ValueError:  # whoever loads it says so
        return False
    return isinstance(document, dict) and "auto_map" in document


def check_revision(config: ModelConfig, folder: ModelFolder) -> None:
    """Check that these weights are those that the model is pinned to, if it is.

    Raises:
        WrongRevision: they are not.
    """
    wanted = config.revision
    if wanted is None:
        return
    found = digest(folder) if wanted.startswith(DIGEST_PREFIX) else folder.manifest.commit
    if found != wanted:
        raise WrongRevision(
            f"model {config.name} is pinned to revision {wanted}, but what was pulled from "
            f"{folder.manifest.source} is {found or 'of no known commit'}"
        )


def digest(folder: ModelFolder) -> str:
    """What names the weights as they were pulled, in the form of `ModelConfig.revision`."""
    part = next(part for part in (GGUF, HUGGINGFACE, ONNX) if part in folder.formats)
    files = sorted((folder.path / part).iterdir())
    digests = {file.name: _digest(file) for file in files if file.name.endswith(_WEIGHTS)}
    if len(digests) == 1:
        return DIGEST_PREFIX + "".join(digests.values())
    lines = "".join(f"{checksum}  {name}\n" for name, checksum in digests.items())
    return DIGEST_PREFIX + hashlib.sha256(lines.encode()).hexdigest()


def _digest(file: Path) -> str:
    stat = file.stat()
    return _digest_once(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1000)
def _digest_once(file: Path, _size: int, _changed_ns: int) -> str:
    """Weights can be many gigabytes, so they are read again only if they have changed."""
    return sha256(file)
