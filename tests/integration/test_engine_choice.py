"""Which engine a model gets, and why it gets none."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_jobs.adapters.engines.build import build_engine
from nexus_jobs.adapters.model_files import pull
from nexus_jobs.config import ModelConfig
from nexus_jobs.errors import ConfigError, ModelUnavailable


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"type": "upstream"}, "not available in this version"),
        ({"type": "openvino", "reproducible": True}, "depend on who shares the batch"),
        ({"type": "openvino", "precision": "int8"}, "leave precision out"),
        ({"type": "openvino", "device": "cuda:0"}, "runs on cpu"),
        ({"type": "onnx", "device": "cuda:0"}, "runs on cpu"),
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
