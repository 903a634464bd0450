"""One model on disk: `<model root>/<name>/`, with a manifest that says what belongs in it.

model.json             the manifest
tokenizer/             tokenizer.json, tokenizer_config.json
gguf/ huggingface/     the weights as they came, or as they were dequantised
onnx/                  a user's own ONNX model
onnx-int8/ ...         built here, one folder a precision
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import orjson

from nexus_jobs.errors import ModelUnavailable

MANIFEST: Final = "model.json"
GGUF: Final = "gguf"
HUGGINGFACE: Final = "huggingface"
ONNX: Final = "onnx"
TOKENIZER: Final = "tokenizer"

Progress = Callable[[str, int, int | None], None]
"""Called with the stage's name, the bytes that are done, and their total if it is known."""


def unreported(_stage: str, _done: int, _total: int | None) -> None:
    """The Progress of those who do not want to know."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a model folder holds. `files` are by their path in the folder, with forward slashes."""

    name: str
    source: str
    precision: str | None
    commit: str | None = None
    """That of a hub's model."""
    files: Mapping[str, FileRecord] = field(default_factory=dict)

    @property
    def parts(self) -> set[str]:
        """The folders that the files lie in: tokenizer, and one for each format."""
        return {_part(name) for name in self.files}

    def damaged(self, folder: Path) -> set[str]:
        """The parts in which a file is missing or has another checksum."""
        return {
            _part(name)
            for name, record in self.files.items()
            if not (folder / name).is_file() or sha256(folder / name) != record.sha256
        }

    def without(self, parts: set[str]) -> Manifest:
        """This manifest without the files of `parts`."""
        files = {name: record for name, record in self.files.items() if _part(name) not in parts}
        return replace(self, files=files)

    def write(self, folder: Path) -> None:
        """Write the manifest, replacing an older one in one move."""
        draft = folder / f".{MANIFEST}"
        draft.write_bytes(orjson.dumps(self, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
        os.replace(draft, folder / MANIFEST)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the model in `folder`.

    Raises:
        ValueError: the manifest is missing or not of our form.
    """
    try:
        document = orjson.loads((folder / MANIFEST).read_bytes())
        files = {path: FileRecord(**record) for path, record in document.pop("files").items()}
        return Manifest(files=files, **document)
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / MANIFEST} cannot be used: {error}") from error


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A pulled model; every file of its manifest was there, in its size, when it was opened."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> ModelFolder:
        """The model in the folder `path`.

        Raises:
            ValueError: the manifest cannot be read, or a file is missing or of another size.
        """
        folder = cls(path, read_manifest(path))
        for name, record in folder.manifest.files.items():
            file = path / name
            if not file.is_file() or file.stat().st_size != record.size:
                raise ValueError(f"{file} is missing or incomplete")
        return folder

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def formats(self) -> list[str]:
        """The forms in which the weights are here: gguf, huggingface, onnx, onnx-int8 ..."""
        return sorted(self.manifest.parts - {TOKENIZER})

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(record.size for record in self.manifest.files.values())

    @property
    def tokenizer(self) -> Path:
        return self.path / TOKENIZER

    @property
    def gguf(self) -> Path:
        """The GGUF file, whether it is there or not."""
        return self.path / GGUF / "model.gguf"

    def format(self, name: str) -> Path:
        """The folder of one format.

        Raises:
            ModelUnavailable: the model has not been pulled or built in this format.
        """
        if name not in self.formats:
            raise ModelUnavailable(
                f"model {self.name} is not here as {name}, only as {', '.join(self.formats)}"
            )
        return self.path / name


def _part(name: str) -> str:
    return name.partition("/")[0]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_files(folder: Path, *parts: str) -> dict[str, FileRecord]:
    """Size and checksum of every file in the named parts of a model's folder."""
    return {
        path.relative_to(folder).as_posix(): FileRecord(path.stat().st_size, sha256(path))
        for part in parts
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }
