"""Engines over the real weights, and a way to run them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus_jobs.adapters.engines.onnx import OnnxEngine
from nexus_jobs.adapters.engines.torch import TorchEngine
from nexus_jobs.adapters.model_files import build, pull
from nexus_jobs.adapters.model_folder import HUGGINGFACE, ONNX, ModelFolder
from nexus_jobs.adapters.tokenizer import FileTokenizer
from nexus_jobs.engine import Engine

SLOTS = 8
THREADS = 2


@pytest.fixture(scope="session")
def model_folder(models_dir: Path) -> ModelFolder:
    """The default model in the formats of both engines; built once, then kept."""
    folder = pull("smollm2-135m", models_dir=models_dir)
    return build(build(folder, HUGGINGFACE), ONNX)


@pytest.fixture(scope="session")
def tokenizer(model_folder: ModelFolder) -> FileTokenizer:
    return FileTokenizer(model_folder.tokenizer)


@pytest.fixture(scope="session")
def onnx_engine(model_folder: ModelFolder, tokenizer: FileTokenizer) -> Iterator[OnnxEngine]:
    engine = OnnxEngine(
        model_folder.format("onnx-int8"),
        tokenizer=tokenizer,
        slots=SLOTS,
        max_sequence_length=1024,
        threads=THREADS,
    )
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def torch_engine(model_folder: ModelFolder, tokenizer: FileTokenizer) -> Iterator[TorchEngine]:
    engine = TorchEngine(
        model_folder.format(HUGGINGFACE),
        tokenizer=tokenizer,
        slots=SLOTS,
        max_sequence_length=1024,
        threads=THREADS,
    )
    yield engine
    engine.close()


@pytest.fixture(scope="session", params=["onnx_engine", "torch_engine"])
def engine(request: pytest.FixtureRequest) -> Engine:
    built: Engine = request.getfixturevalue(request.param)
    return built
