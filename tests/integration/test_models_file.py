"""Changing one model in a file that people write by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_jobs.adapters.models_file import change_model
from nexus_jobs.errors import ConfigError
from nexus_jobs.models import load_models

WRITTEN = """\
# Ours; ask Mia before you change it.
models:
  # the small one
  - name: small
    type: auto  # whatever is there
    max_batch_size: 64
    preprocessing:
      system_prompt: "Be brief: 'yes' or 'no', and nothing that would have to be folded at eighty."

  # the other one
  - {name: other, type: simulated}
"""
FLUSH = "models:\n- name: small\n  precision: int8\n- name: other\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(WRITTEN)
    return path


def test_only_the_changed_lines_differ(file: Path) -> None:
    change_model(file, "small", {"type": "onnx", "precision": "int8", "max_batch_size": 32})
    expected = WRITTEN.replace(
        "type: auto  # whatever is there", "type: onnx  # whatever is there\n    precision: int8"
    ).replace("64", "32")
    assert file.read_text() == expected


def test_a_key_without_a_value_is_taken_out_and_lists_may_be_flush(file: Path) -> None:
    file.write_text(FLUSH)
    change_model(file, "small", {"type": "openvino", "precision": None})
    assert file.read_text() == FLUSH.replace("precision: int8", "type: openvino")


def test_a_change_that_makes_the_file_invalid_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="max_batch_size"):
        change_model(file, "small", {"max_batch_size": 0})
    assert file.read_text() == WRITTEN
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("name", ["smal", "models"])
def test_a_model_that_is_not_there_cannot_be_changed(name: str, file: Path) -> None:
    with pytest.raises(ConfigError, match=f"no model '{name}'"):
        change_model(file, name, {"type": "onnx"})


@pytest.mark.parametrize("text", ["", "models: []", "models: [3]", "models:\n - name: [", "{"])
def test_a_file_of_another_form_cannot_be_changed(text: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"models\.yaml has no model 'small'"):
        change_model(file, "small", {"type": "onnx"})
    assert file.read_text() == text


def test_a_changed_file_can_be_read(file: Path) -> None:
    change_model(file, "other", {"max_batch_size": 7})
    assert [model.max_batch_size for model in load_models(file)] == [64, 7]
