"""Only weights that can do no harm, and are those that were meant, are ever loaded."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from nexus_jobs.adapters import model_weights
from nexus_jobs.adapters.model_files import check, pull, resolve
from nexus_jobs.adapters.model_folder import ModelFolder
from nexus_jobs.adapters.model_listing import list_models
from nexus_jobs.adapters.model_weights import digest
from nexus_jobs.errors import ModelUnavailable, WeightsRefused, WrongRevision
from nexus_jobs.models import ModelConfig

TINY = ModelConfig(name="tiny")


@pytest.fixture
def tiny(tiny_folder: Path, model_root: Path) -> ModelFolder:
    return pull(str(tiny_folder), models_dir=model_root, name="tiny")


def test_a_pulled_model_is_well(tiny: ModelFolder, model_root: Path) -> None:
    check(TINY, model_root)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "a.pth", "a.ckpt", "deep/a.pkl"])
def test_a_folder_with_pickles_is_refused_whether_it_was_pulled_or_not(
    name: str, tiny: ModelFolder, model_root: Path
) -> None:
    for folder in (tiny.path, model_root / "by-hand"):
        file = folder / "huggingface" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        with pytest.raises(WeightsRefused, match="use safetensors, GGUF or ONNX"):
            resolve(ModelConfig(name=folder.name), model_root)


@pytest.mark.parametrize("link", ["folder", "file"])
def test_a_link_out_of_the_model_root_is_refused(
    link: str, tiny: ModelFolder, model_root: Path, tmp_path: Path
) -> None:
    inside = tiny.path / "huggingface"
    target = inside if link == "folder" else inside / "model.safetensors"
    outside = target.rename(tmp_path / "outside")
    target.symlink_to(outside)
    with pytest.raises(WeightsRefused, match="leads out of the model root"):
        resolve(TINY, model_root)


def test_links_inside_the_model_root_and_a_root_that_is_a_link_are_well(
    tiny: ModelFolder, model_root: Path, tmp_path: Path
) -> None:
    weights = tiny.path / "huggingface" / "model.safetensors"
    weights.symlink_to(weights.rename(model_root / "blob"))
    (tmp_path / "link").symlink_to(model_root)
    check(TINY, tmp_path / "link")


def test_code_of_the_models_own_is_refused(tiny: ModelFolder, model_root: Path) -> None:
    config = tiny.path / "huggingface" / "config.json"
    document = {**json.loads(config.read_text()), "auto_map": {"AutoModel": "code.Model"}}
    config.write_text(json.dumps(document))
    with pytest.raises(WeightsRefused, match="auto_map"):
        resolve(TINY, model_root)


def test_a_pull_of_what_could_not_be_loaded_leaves_nothing(
    tiny_folder: Path, model_root: Path
) -> None:
    (tiny_folder / "config.json").write_text('{"auto_map": {}}')
    with pytest.raises(WeightsRefused, match="auto_map"):
        pull(str(tiny_folder), models_dir=model_root)
    assert list_models(model_root) == []


def test_what_is_missing_here_may_be_well_elsewhere(model_root: Path) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        check(TINY, model_root)
    assert not isinstance(caught.value, WeightsRefused)
    check(ModelConfig(name="tiny", type="simulated"), model_root)


def test_a_revision_pins_the_weights(tiny: ModelFolder, model_root: Path) -> None:
    weights = tiny.path / "huggingface" / "model.safetensors"
    pinned = ModelConfig(name="tiny", revision="sha256:" + sha256(weights.read_bytes()).hexdigest())
    assert resolve(pinned, model_root).path == tiny.path
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + b"\xff")
    with pytest.raises(WrongRevision, match=r"but what was pulled from .* is sha256:"):
        resolve(pinned, model_root)


def test_a_commit_is_not_found_in_what_came_without_one(
    tiny: ModelFolder, model_root: Path
) -> None:
    with pytest.raises(WrongRevision, match="of no known commit"):
        resolve(ModelConfig(name="tiny", revision="c" * 40), model_root)


def test_several_files_have_the_digest_of_their_checksums(
    tiny_folder: Path, model_root: Path
) -> None:
    save_file({"more": np.arange(3.0)}, tiny_folder / "more.safetensors")
    folder = pull(str(tiny_folder), models_dir=model_root)
    files = ("model.safetensors", "more.safetensors")
    lines = [f"{sha256((tiny_folder / f).read_bytes()).hexdigest()}  {f}\n" for f in files]
    assert digest(folder) == "sha256:" + sha256("".join(lines).encode()).hexdigest()


def test_weights_are_read_again_only_when_they_have_changed(
    tiny: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    count = model_weights.sha256
    monkeypatch.setattr(model_weights, "sha256", lambda path: reads.append(path) or count(path))
    first = digest(tiny)
    assert digest(tiny) == first
    assert len(reads) == 1
    weights = tiny.path / "huggingface" / "model.safetensors"
    shutil.copyfile(tiny.path / "tokenizer" / "tokenizer.json", weights)
    assert digest(tiny) != first
    assert len(reads) == 2
