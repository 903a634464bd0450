from __future__ import annotations

from pathlib import Path

import pytest

from nexus_jobs.adapters.model_build import build_onnx, dequantise
from nexus_jobs.errors import ModelUnavailable


def test_a_broken_file_is_no_model_and_leaves_nothing_behind(tmp_path: Path) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ModelUnavailable, match=r"model\.gguf cannot be dequantised"):
        dequantise(gguf, tmp_path / "huggingface")
    assert list(tmp_path.iterdir()) == [gguf]


def test_a_failed_build_says_why_and_leaves_nothing_behind(tmp_path: Path) -> None:
    source = tmp_path / "huggingface"
    source.mkdir()
    with pytest.raises(ModelUnavailable, match=r"cannot be built as ONNX int8: \w*Error"):
        build_onnx(source, tmp_path / "onnx-int8")
    assert list(tmp_path.iterdir()) == [source]
