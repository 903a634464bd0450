"""Which engine a model gets, and why it gets none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nexus_jobs.adapters.engines.build import build_engine, load_tokenizer
from nexus_jobs.adapters.model_files import pull
from nexus_jobs.errors import ConfigError, ModelUnavailable
from nexus_jobs.models import ModelConfig


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"type": "openvino", "reproducible": True}, "depend on who shares the batch"),
        ({"type": "openvino", "precision": "int8"}, "leave precision out"),
        ({"type": "openvino", "device": "cuda:0"}, "runs on cpu"),
        ({"type": "onnx", "device": "cuda:0"}, "runs on cpu"),
        ({"type": "onnx", "precision": "bf16"}, "take type huggingface"),
        ({"type": "huggingface", "precision": "int8"}, "runs fp32 and bf16, not int8"),
        ({"max_sequence_length": 65}, "set its max_sequence_length to 64"),
    ],
)
def test_settings_that_cannot_work_say_why(
    settings: dict[str, object], reason: str, tiny_folder: Path, model_root: Path
) -> None:
    pull(str(tiny_folder), models_dir=model_root)
    config = ModelConfig.model_validate(
        {"name": "tiny-model", "max_sequence_length": 64} | settings
    )
    with pytest.raises(ConfigError, match=reason):
        build_engine(config, models_dir=model_root, threads=1)


def test_an_engine_that_needs_a_gguf_file_says_what_is_here(
    tiny_folder: Path, model_root: Path
) -> None:
    pull(str(tiny_folder), models_dir=model_root)
    config = ModelConfig(name="tiny-model", type="openvino", max_sequence_length=64)
    with pytest.raises(ModelUnavailable, match="not here as gguf, only as huggingface"):
        build_engine(config, models_dir=model_root, threads=1)


def engine_name(models_dir: Path, **settings: object) -> str:
    config = ModelConfig.model_validate({"name": "smollm2-135m", "max_batch_size": 2} | settings)
    engine = build_engine(config, models_dir=models_dir, threads=2)
    engine.close()
    return engine.name


@pytest.mark.model
def test_auto_takes_openvino(models_dir: Path) -> None:
    assert engine_name(models_dir) == "openvino Q4_1"


@pytest.mark.model
def test_auto_takes_onnx_where_answers_must_be_reproducible(models_dir: Path) -> None:
    assert engine_name(models_dir, reproducible=True) == "onnx int8"


@pytest.mark.model
def test_auto_takes_what_is_installed(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino_genai", None)
    assert engine_name(models_dir) == "onnx int8"


@pytest.mark.model
def test_a_missing_package_says_what_to_install(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("openvino_genai", "onnxruntime", "torch"):
        monkeypatch.setitem(sys.modules, package, None)
    for kind, extra in {"openvino": "cpu", "onnx": "cpu", "huggingface": "torch"}.items():
        with pytest.raises(ModelUnavailable, match=rf'pip install "nexus-jobs\[{extra}\]"'):
            engine_name(models_dir, type=kind)
    with pytest.raises(ModelUnavailable, match=r"no engine can run(.|\n)*openvino(.|\n)*onnx"):
        engine_name(models_dir)


def test_a_format_that_needs_torch_says_what_to_install(
    tiny_folder: Path, model_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelUnavailable, match=r'pip install "nexus-jobs\[torch\]"'):
        pull(str(tiny_folder), models_dir=model_root, formats=["onnx"])


def test_a_simulated_model_needs_no_files(tmp_path: Path) -> None:
    config = ModelConfig(name="s", type="simulated", max_batch_size=3, max_sequence_length=9)
    engine = build_engine(config, models_dir=tmp_path, threads=0)
    assert (engine.name, engine.slots, engine.max_sequence_length) == ("simulated", 3, 9)
    assert load_tokenizer(config, tmp_path) is not None
