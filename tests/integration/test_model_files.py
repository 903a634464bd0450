"""Models come onto the machine whole or not at all, once, and stay inside the model model_root."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from nexus_jobs.adapters.engines.build import load_tokenizer
from nexus_jobs.adapters.model_files import pull, resolve
from nexus_jobs.adapters.model_folder import FileRecord
from nexus_jobs.adapters.model_listing import FolderState, list_models
from nexus_jobs.adapters.tokenizer import FileTokenizer
from nexus_jobs.errors import ConfigError, Conflict, ModelUnavailable
from nexus_jobs.job import Message
from nexus_jobs.models import ModelConfig


def test_a_local_folder_is_copied_with_all_the_tokenizer_needs(
    tiny_folder: Path, model_root: Path
) -> None:
    stages: list[tuple[str, int, int | None]] = []
    folder = pull(
        str(tiny_folder), models_dir=model_root, progress=lambda *stage: stages.append(stage)
    )
    assert folder.formats == ["huggingface"]
    assert folder.manifest.precision == "float16"
    copied = folder.path / "huggingface" / "model.safetensors"
    assert copied.read_bytes() == (tiny_folder / "model.safetensors").read_bytes()
    assert stages[-1][1] == stages[-1][2]
    tokenizer = FileTokenizer(folder.tokenizer)
    assert tokenizer.render([Message("user", "hi ")]) == "hi b"
    assert tokenizer.eos_token_ids == {0, 1}
    assert tokenizer.context_length == 64


def test_a_second_pull_copies_nothing(tiny_folder: Path, model_root: Path) -> None:
    first = pull(str(tiny_folder), models_dir=model_root)
    stamp = (first.path / "model.json").stat().st_mtime_ns
    again = pull(str(tiny_folder), models_dir=model_root)
    assert (again.path / "model.json").stat().st_mtime_ns == stamp


def test_a_pull_brings_what_has_changed_at_the_source(tiny_folder: Path, model_root: Path) -> None:
    pull(str(tiny_folder), models_dir=model_root)
    save_file({"weight": np.arange(7.0)}, tiny_folder / "model.safetensors")
    folder = pull(str(tiny_folder), models_dir=model_root)
    copied = folder.path / "huggingface" / "model.safetensors"
    assert copied.read_bytes() == (tiny_folder / "model.safetensors").read_bytes()


def test_many_pulls_at_once_bring_one_whole_model(tiny_folder: Path, model_root: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        folders = list(
            threads.map(lambda _: pull(str(tiny_folder), models_dir=model_root), range(16))
        )
    assert len({folder.path for folder in folders}) == 1
    assert [entry.state for entry in list_models(model_root)] == [FolderState.PULLED]


def test_an_incomplete_model_is_listed_as_damaged_and_pulled_again(
    tiny_folder: Path, model_root: Path
) -> None:
    folder = pull(str(tiny_folder), models_dir=model_root)
    os.truncate(folder.path / "huggingface" / "model.safetensors", 10)
    assert [entry.state for entry in list_models(model_root)] == [FolderState.DAMAGED]
    with pytest.raises(ModelUnavailable, match="damaged"):
        resolve(ModelConfig(name="tiny-model"), model_root)
    pull(str(tiny_folder), models_dir=model_root)
    assert resolve(ModelConfig(name="tiny-model"), model_root).formats == ["huggingface"]


def test_a_pull_finds_and_replaces_a_file_that_changed_but_kept_its_size(
    tiny_folder: Path, model_root: Path
) -> None:
    folder = pull(str(tiny_folder), models_dir=model_root)
    weights = folder.path / "huggingface" / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + b"\xff")
    pull(str(tiny_folder), models_dir=model_root)
    assert weights.read_bytes() == good


def test_what_a_killed_pull_left_is_listed_and_does_not_hinder_the_next(
    tiny_folder: Path, model_root: Path
) -> None:
    (model_root / ".tiny-model.partial" / "huggingface").mkdir(parents=True)
    assert [(e.name, e.state) for e in list_models(model_root)] == [
        ("tiny-model", FolderState.PARTIAL)
    ]
    pull(str(tiny_folder), models_dir=model_root)
    assert [entry.state for entry in list_models(model_root)] == [FolderState.PULLED]


def test_a_failed_pull_leaves_nothing(tiny_folder: Path, model_root: Path) -> None:
    (tiny_folder / "tokenizer.json").unlink()
    with pytest.raises(ModelUnavailable, match=r"no tokenizer\.json"):
        pull(str(tiny_folder), models_dir=model_root)
    assert list_models(model_root) == []


def test_a_name_that_is_taken_is_not_overwritten(
    tiny_folder: Path, model_root: Path, tmp_path: Path
) -> None:
    pull(str(tiny_folder), models_dir=model_root)
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    with pytest.raises(Conflict, match="choose another name"):
        pull(str(other), models_dir=model_root, name="tiny-model")
    (model_root / "mine").mkdir()
    with pytest.raises(Conflict, match="remove it first"):
        pull(str(other), models_dir=model_root, name="mine")


@pytest.mark.parametrize("name", ["../evil", "UPPER", "a b", "", ".hidden"])
def test_a_name_that_could_not_be_a_models_is_refused(
    name: str, tiny_folder: Path, model_root: Path
) -> None:
    tiny_folder = tiny_folder.rename(tiny_folder.with_name("-"))
    with pytest.raises(ConfigError, match="cannot be a model's name"):
        pull(str(tiny_folder), models_dir=model_root, name=name)


def test_pickled_weights_are_refused(tiny_folder: Path, model_root: Path) -> None:
    (tiny_folder / "model.safetensors").rename(tiny_folder / "pytorch_model.bin")
    with pytest.raises(ModelUnavailable, match="safetensors"):
        pull(str(tiny_folder), models_dir=model_root)


def test_pickled_weights_beside_safetensors_stay_behind(
    tiny_folder: Path, model_root: Path
) -> None:
    (tiny_folder / "pytorch_model.bin").write_bytes(b"x")
    folder = pull(str(tiny_folder), models_dir=model_root)
    assert not list(folder.path.rglob("*.bin"))


def test_several_gguf_files_need_a_choice(tmp_path: Path, model_root: Path) -> None:
    (tmp_path / "a.gguf").touch()
    (tmp_path / "b.gguf").touch()
    with pytest.raises(ModelUnavailable, match="name one of them"):
        pull(str(tmp_path), models_dir=model_root)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\1" * 100, b"x" * 99])
def test_a_file_that_only_calls_itself_gguf_is_refused(
    content: bytes, tmp_path: Path, model_root: Path
) -> None:
    (tmp_path / "broken.gguf").write_bytes(content)
    with pytest.raises(ModelUnavailable, match="not a complete GGUF file"):
        pull(str(tmp_path / "broken.gguf"), models_dir=model_root)


def test_an_unknown_source_is_answered_with_the_nearest(model_root: Path) -> None:
    with pytest.raises(ModelUnavailable, match="did you mean 'smollm2-135m'"):
        pull("smolm2-135m", models_dir=model_root)


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("", "nexus models pull smollm2-135m"),
        ("hf:org/Tiny", "nexus models pull hf:org/Tiny"),
        ("org/Tiny", "nexus models pull hf:org/Tiny"),
        ("mine", "nexus models pull FOLDER --name mine"),
    ],
)
def test_a_missing_model_says_what_to_run(path: str, command: str, model_root: Path) -> None:
    config = ModelConfig(name="smollm2-135m", path=path)
    with pytest.raises(ModelUnavailable, match=command):
        resolve(config, model_root)
    assert load_tokenizer(config, model_root) is None


def test_what_to_run_names_the_folder_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = ModelConfig(name="smollm2-135m")
    with pytest.raises(ModelUnavailable, match=r"pull smollm2-135m$"):
        resolve(config, tmp_path / ".nexus" / "models")
    with pytest.raises(ModelUnavailable, match=f"pull smollm2-135m --data-dir {tmp_path}/d9$"):
        resolve(config, tmp_path / "d9" / "models")


def test_a_hubs_name_finds_what_was_pulled_from_it(tiny_folder: Path, model_root: Path) -> None:
    pull(str(tiny_folder), models_dir=model_root, name="tiny")
    assert resolve(ModelConfig(name="other", path="org/Tiny"), model_root).name == "tiny"


@pytest.mark.parametrize("path", ["..", "../x", "/etc", "tiny/../..", "link", "."])
def test_a_path_out_of_the_model_root_is_refused(
    path: str, model_root: Path, tmp_path: Path
) -> None:
    model_root.mkdir()
    (model_root / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="leads out of the model root"):
        resolve(ModelConfig(name="m", path=path), model_root)


@pytest.mark.model
def test_a_gguf_file_of_ones_own_can_be_pulled(models_dir: Path, model_root: Path) -> None:
    folder = pull(
        str(models_dir / "smollm2-135m" / "gguf" / "model.gguf"), models_dir=model_root, name="mine"
    )
    assert folder.formats == ["gguf"]
    assert FileTokenizer(folder.tokenizer).context_length == 8192


@pytest.mark.model
def test_a_damaged_build_is_dropped_without_fetching_the_source_again(
    models_dir: Path, model_root: Path
) -> None:
    source = models_dir / "smollm2-135m" / "gguf" / "model.gguf"
    folder = pull(str(source), models_dir=model_root, name="mine")
    stamp = folder.gguf.stat().st_ino
    records = {"onnx-int8/model.onnx": FileRecord(1, "0" * 64)}
    replace(folder.manifest, files={**folder.manifest.files, **records}).write(folder.path)
    assert [entry.state for entry in list_models(model_root)] == [FolderState.DAMAGED]
    mended = pull(str(source), models_dir=model_root, name="mine")
    assert mended.formats == ["gguf"]
    assert mended.gguf.stat().st_ino == stamp
