"""A small model that tests of files can pull."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A small Hugging Face folder."""
    folder = tmp_path / "Tiny-Model"
    folder.mkdir()
    save_file({"weight": np.arange(6.0)}, folder / "model.safetensors")
    Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(folder / "tokenizer.json"))
    write(folder / "config.json", {"max_position_embeddings": 64, "dtype": "float16"})
    write(folder / "generation_config.json", {"eos_token_id": [1, 0]})
    write(
        folder / "tokenizer_config.json",
        {"eos_token": {"content": "b"}, "model_max_length": 1e30, "chat_template": "old"},
    )
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}{{ eos_token }}")
    return folder


@pytest.fixture
def model_root(tmp_path: Path) -> Path:
    return tmp_path / "models"


def write(path: Path, document: object) -> None:
    path.write_text(json.dumps(document))
