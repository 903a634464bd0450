"""The models on this machine: pulled once, built in other formats when an engine needs them."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from filelock import FileLock

from nexus_jobs.adapters import model_build
from nexus_jobs.adapters.gguf_tokenizer import GgufMetadata, write_tokenizer
from nexus_jobs.adapters.model_downloads import HUB_PREFIX, HubSource
from nexus_jobs.adapters.model_folder import (
    GGUF,
    HUGGINGFACE,
    ONNX,
    TOKENIZER,
    Manifest,
    ModelFolder,
    Progress,
    read_manifest,
    record_files,
    unreported,
)
from nexus_jobs.adapters.model_listing import PARTIAL
from nexus_jobs.adapters.model_sources import BUILT_IN, Source, find_source
from nexus_jobs.adapters.model_weights import DIGEST_PREFIX, check_files, check_revision
from nexus_jobs.adapters.packages import check_installed
from nexus_jobs.adapters.tokenizer_files import copy_tokenizer, stored_precision
from nexus_jobs.config import Settings
from nexus_jobs.errors import ConfigError, Conflict, ModelUnavailable
from nexus_jobs.models import MODEL_NAME, ModelConfig, Precision

ONNX_PRECISION: Final[Precision] = "int8"
"""What the onnx engine runs unless the model says otherwise."""


def pull(
    source: str,
    *,
    models_dir: Path,
    name: str | None = None,
    formats: Collection[str] = (),
    precision: Precision | None = None,
    progress: Progress = unreported,
) -> ModelFolder:
    """Bring a model onto this machine and build `formats` of it; does nothing if it is there.

    `source` is `smollm2-135m`, `hf:organisation/name`, a folder or a GGUF file; `formats` are
    `huggingface` and `onnx` (of `precision`).

    Raises:
        ModelUnavailable: the source cannot be reached, or not be used or built.
        Conflict: another source's model, or something else, has this name.
        ConfigError: the name is not one a model can have.
    """
    origin = find_source(source)
    name = name or origin.name
    if not re.match(MODEL_NAME, name):
        raise ConfigError(f"{name!r} cannot be a model's name; give one of the form {MODEL_NAME}")
    with _locked(models_dir, name):
        folder = _intact(models_dir / name, origin) or _fetch(origin, models_dir / name, progress)
    for wanted in formats:
        folder = build(folder, wanted, precision, progress=progress)
    return folder


def _intact(path: Path, origin: Source) -> ModelFolder | None:
    """The model at `path` if it is what `origin` would bring; None to fetch it (again).

    A damaged part that was built here is only dropped: it is built again when it is needed.
    """
    if not path.exists():
        return None
    try:
        manifest = read_manifest(path)
    except ValueError as error:
        raise Conflict(f"{path} is no pulled model; remove it first ({error})") from error
    if manifest.source != origin.text:
        raise Conflict(
            f"{path.name} was pulled from {manifest.source}; choose another name for this one"
        )
    damaged = manifest.damaged(path)
    files = manifest.files
    same = all(n in files and files[n].sha256 == c for n, c in origin.checksums().items())
    if not same or damaged - _built(manifest):
        return None
    if damaged:
        manifest.without(damaged).write(path)
    return ModelFolder.open(path)


def _built(manifest: Manifest) -> set[str]:
    """The parts that were built here and can be built again from the others."""
    onnx = {part for part in manifest.parts if part.startswith(f"{ONNX}-")}
    return onnx | ({HUGGINGFACE} if GGUF in manifest.parts else set())


def _fetch(origin: Source, path: Path, progress: Progress) -> ModelFolder:
    """Write the model beside `path` and move it there when it is complete."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        commit = origin.fetch(partial, progress)
        check_files(partial, path.parent)
        precision = _add_tokenizer(partial)
        Manifest(
            name=path.name,
            source=origin.text,
            precision=precision,
            commit=commit,
            files=record_files(partial, *(part.name for part in partial.iterdir())),
        ).write(partial)
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ModelFolder.open(path)


def _add_tokenizer(folder: Path) -> str | None:
    """Write tokenizer/ from the weights' own files; how these weights are stored."""
    if (folder / GGUF).is_dir():
        metadata = GgufMetadata(folder / GGUF / "model.gguf")
        write_tokenizer(metadata, folder / TOKENIZER)
        return metadata.precision
    weights = folder / (HUGGINGFACE if (folder / HUGGINGFACE).is_dir() else ONNX)
    copy_tokenizer(weights, folder / TOKENIZER)
    return stored_precision(weights)


def build(
    folder: ModelFolder,
    wanted: str,
    precision: Precision | None = None,
    *,
    progress: Progress = unreported,
) -> ModelFolder:
    """The model with `wanted` (huggingface, onnx), built from what was pulled if it is missing.

    Raises:
        ModelUnavailable: it cannot be built from what was pulled.
    """
    with _locked(folder.path.parent, folder.name):
        folder = ModelFolder.open(folder.path)
        for remains in folder.path.glob(".*/"):
            shutil.rmtree(remains)
        if wanted == HUGGINGFACE:
            return _with_huggingface(folder, progress)
        if wanted == ONNX:
            return _with_onnx(folder, precision or ONNX_PRECISION, progress)
    raise ModelUnavailable(f"{wanted!r} is no format that can be built; huggingface and onnx are")


def _with_huggingface(folder: ModelFolder, progress: Progress) -> ModelFolder:
    if HUGGINGFACE in folder.formats:
        return folder
    if GGUF not in folder.formats:
        raise ModelUnavailable(
            f"model {folder.name} was pulled as {', '.join(folder.formats)}, "
            "from which no other format can be built"
        )
    check_installed("torch", "transformers", "accelerate", extra="torch")
    progress("dequantise", 0, None)
    model_build.dequantise(folder.gguf, folder.path / HUGGINGFACE)
    return _recorded(folder, HUGGINGFACE)


def _with_onnx(folder: ModelFolder, precision: Precision, progress: Progress) -> ModelFolder:
    part = f"{ONNX}-{precision}"
    if part in folder.formats:
        return folder
    folder = _with_huggingface(folder, progress)
    check_installed("torch", "onnxruntime_genai", "onnx_ir", extra="torch")
    progress(f"build {part}", 0, None)
    model_build.build_onnx(folder.format(HUGGINGFACE), folder.path / part, precision)
    return _recorded(folder, part)


def _recorded(folder: ModelFolder, part: str) -> ModelFolder:
    """The folder with the files of a new part in its manifest."""
    files = {**folder.manifest.files, **record_files(folder.path, part)}
    replace(folder.manifest, files=files).write(folder.path)
    return ModelFolder.open(folder.path)


def resolve(config: ModelConfig, models_dir: Path) -> ModelFolder:
    """The pulled model that `config` names by its path, or by its own name.

    Raises:
        WeightsRefused: it is here and must not be loaded.
        ModelUnavailable: it is not here, or damaged; the message has the command that helps.
        ConfigError: the path leads out of the model root.
    """
    path = _inside(models_dir, _local_name(config.source))
    check_files(path, models_dir)
    try:
        folder = ModelFolder.open(path)
    except ValueError as error:
        reason = f"is damaged ({error})" if path.exists() else "has not been pulled"
        raise ModelUnavailable(
            f"model {config.name} {reason}; run: {_pull_command(config, models_dir)}"
        ) from error
    check_revision(config, folder)
    return folder


def check(config: ModelConfig, models_dir: Path) -> None:
    """Check the files of a model before anybody loads it.

    Raises:
        WeightsRefused, ConfigError: it can never be loaded like this.
        ModelUnavailable: it is not on this machine, or damaged; it may be well on another one.
    """
    if config.has_weights:
        resolve(config, models_dir)


def _local_name(source: str) -> str:
    """The folder of a source in the model root: for a hub's model, its name in lower case."""
    return HubSource(source.removeprefix(HUB_PREFIX)).name if _on_hub(source) else source


def _on_hub(source: str) -> bool:
    return source.startswith(HUB_PREFIX) or re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) is not None


def _pull_command(config: ModelConfig, models_dir: Path) -> str:
    source, revision = config.source, config.revision or ""
    where = _option_for(models_dir)
    if source == BUILT_IN.name:
        return f"nexus models pull {source}{where}"
    if _on_hub(source):
        commit = "" if not revision or revision.startswith(DIGEST_PREFIX) else f"@{revision}"
        return f"nexus models pull {HUB_PREFIX}{source.removeprefix(HUB_PREFIX)}{commit}{where}"
    return f"nexus models pull FOLDER --name {source}{where}, where FOLDER holds its weights"


def _option_for(models_dir: Path) -> str:
    """What brings a model into this root, if it is that of another data folder than the usual."""
    usual = Settings.model_fields["data_dir"].default
    folder = models_dir.parent
    if models_dir.name != "models" or folder == usual.absolute():
        return ""
    return f" --data-dir {shlex.quote(str(folder))}"


def _inside(models_dir: Path, name: str) -> Path:
    path = (models_dir / name).resolve()
    try:
        path.exists()
    except OSError as error:  # the name is too long
        raise ConfigError(f"model path {name[:100]!r}: {error.strerror}") from error
    if models_dir.resolve() not in path.parents:
        raise ConfigError(f"model path {name!r} leads out of the model root {models_dir}")
    return path


@contextmanager
def _locked(models_dir: Path, name: str) -> Iterator[None]:
    """One pull or build of a model at a time, in all processes."""
    models_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(models_dir / f".{name}.lock"):
        yield
