"""Chooses and loads the engine of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from nexus_jobs.adapters.engines.process import ProcessEngine
from nexus_jobs.adapters.engines.simulated import SimulatedEngine
from nexus_jobs.adapters.engines.upstream import UpstreamEngine
from nexus_jobs.adapters.engines.words import WordTokenizer
from nexus_jobs.adapters.model_files import ONNX_PRECISION, build, resolve
from nexus_jobs.adapters.model_folder import GGUF, HUGGINGFACE, ONNX, ModelFolder
from nexus_jobs.adapters.packages import check_installed, require
from nexus_jobs.adapters.tokenizer import FileTokenizer
from nexus_jobs.engine import Engine, Tokenizer
from nexus_jobs.errors import ConfigError, ModelUnavailable
from nexus_jobs.models import ModelConfig

log = structlog.get_logger(__name__)


def build_engine(config: ModelConfig, *, models_dir: Path, threads: int) -> Engine:
    """Load the model that `config` names on the engine it asks for; `auto` is the best that can.

    Nothing is pulled, but a format that the engine needs is built from what was pulled.
    `threads` 0 leaves their number to the engine.

    Raises:
        ConfigError: the settings contradict each other or what the model can do.
        ModelUnavailable: files or packages are missing; the message has the command that helps.
    """
    if config.type == "simulated":
        return SimulatedEngine(config.simulated, config.max_batch_size, config.max_sequence_length)
    if config.type == "upstream":
        return _upstream(config)
    folder = resolve(config, models_dir)
    parts = _Parts(config, folder, FileTokenizer(folder.tokenizer), threads)
    _check_length(parts)
    return _best(parts) if config.type == "auto" else _load(_LOADERS[config.type], parts)


def load_tokenizer(config: ModelConfig, models_dir: Path) -> Tokenizer | None:
    """The model's tokenizer, without its weights; None if the model is not here."""
    if config.type == "simulated":
        return WordTokenizer()
    if config.type == "upstream":
        return None
    try:
        return FileTokenizer(resolve(config, models_dir).tokenizer)
    except ModelUnavailable:
        return None


def _upstream(config: ModelConfig) -> Engine:
    if config.reproducible:
        raise ConfigError(
            f"model {config.name}: nobody knows whether answers of {config.path} depend on what "
            "else it runs, so that type upstream cannot be reproducible"
        )
    return UpstreamEngine(config)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What every engine is made from."""

    config: ModelConfig
    folder: ModelFolder
    tokenizer: FileTokenizer
    threads: int


def _check_length(parts: _Parts) -> None:
    longest = parts.tokenizer.context_length
    if longest is not None and parts.config.max_sequence_length > longest:
        raise ConfigError(
            f"model {parts.config.name} was made for {longest} tokens; "
            f"set its max_sequence_length to {longest} or less"
        )


def _best(parts: _Parts) -> Engine:
    """The first engine, fastest first, that can run the model here."""
    reasons = []
    for name, load in _LOADERS.items():
        try:
            return _load(load, parts)
        except (ConfigError, ModelUnavailable) as error:
            log.info("engine.passed_over", model=parts.config.name, engine=name, reason=str(error))
            reasons.append(f"{name}: {error}")
    raise ModelUnavailable(
        f"no engine can run model {parts.config.name} here\n" + "\n".join(reasons)
    )


def _load(load: Callable[[_Parts], Engine], parts: _Parts) -> Engine:
    """An engine, unless it finds that it cannot keep what the model promises."""
    engine = load(parts)
    if parts.config.reproducible and not engine.reproducible:
        engine.close()
        raise ConfigError(
            f"model {parts.config.name}: {engine.name} rounds differently in company on this "
            "processor; another precision may not"
        )
    return engine


def _openvino(parts: _Parts) -> Engine:
    config, folder = parts.config, parts.folder
    _require_cpu(config, "openvino")
    if config.reproducible:
        raise ConfigError(
            f"model {config.name}: openvino's answers depend on who shares the batch, so that "
            "reproducible: true needs type onnx, huggingface or auto"
        )
    if config.precision is not None:
        raise ConfigError(
            f"model {config.name}: openvino runs the weights as they were pulled "
            f"({folder.manifest.precision}); leave precision out, or take type onnx"
        )
    folder.format(GGUF)
    check_installed("openvino_genai", extra="cpu")
    # The library's step holds Python's global lock from beginning to end.
    build = partial(_openvino_inside, config, folder, parts.threads)
    return ProcessEngine(build, parts.tokenizer)


def _openvino_inside(config: ModelConfig, folder: ModelFolder, threads: int) -> Engine:
    from nexus_jobs.adapters.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(
        folder.gguf,
        tokenizer=FileTokenizer(folder.tokenizer),
        slots=config.max_batch_size,
        max_sequence_length=config.max_sequence_length,
        max_batch_tokens=config.max_batch_tokens,
        threads=threads,
        name=f"openvino {folder.manifest.precision}",
    )


def _onnx(parts: _Parts) -> Engine:
    config = parts.config
    _require_cpu(config, "onnx")
    if config.precision == "bf16":
        raise ConfigError(f"model {config.name}: onnx has no bf16 here; take type huggingface")
    check_installed("onnxruntime", extra="cpu")
    build = partial(_onnx_inside, config, parts.folder, _onnx_folder(parts), parts.threads)
    return ProcessEngine(build, parts.tokenizer)


def _onnx_inside(config: ModelConfig, model: ModelFolder, folder: Path, threads: int) -> Engine:
    from nexus_jobs.adapters.engines.onnx import OnnxEngine

    return OnnxEngine(
        folder,
        tokenizer=FileTokenizer(model.tokenizer),
        slots=config.max_batch_size,
        max_sequence_length=config.max_sequence_length,
        max_batch_tokens=config.max_batch_tokens,
        threads=threads,
    )


def _onnx_folder(parts: _Parts) -> Path:
    """A user's own ONNX model, or one that is built here in the precision that is asked for."""
    precision = parts.config.precision
    if precision is None and ONNX in parts.folder.formats:
        return parts.folder.format(ONNX)
    folder = build(parts.folder, ONNX, precision)
    return folder.format(f"{ONNX}-{precision or ONNX_PRECISION}")


def _huggingface(parts: _Parts) -> Engine:
    config = parts.config
    check_installed("torch", "transformers", extra="torch")
    from nexus_jobs.adapters.engines.torch import PRECISIONS, TorchEngine

    if config.precision not in (None, *PRECISIONS):
        raise ConfigError(
            f"model {config.name}: huggingface runs {' and '.join(PRECISIONS)}, "
            f"not {config.precision}; take type onnx"
        )
    return TorchEngine(
        build(parts.folder, HUGGINGFACE).format(HUGGINGFACE),
        tokenizer=parts.tokenizer,
        slots=config.max_batch_size,
        max_sequence_length=config.max_sequence_length,
        max_batch_tokens=config.max_batch_tokens,
        threads=parts.threads,
        device=_torch_device(config),
        precision=config.precision,
    )


def _require_cpu(config: ModelConfig, engine: str) -> None:
    if config.device not in ("auto", "cpu"):
        raise ConfigError(
            f"model {config.name}: {engine} runs on cpu, not on {config.device!r}; "
            "take type huggingface"
        )


def _torch_device(config: ModelConfig) -> str:
    if config.device != "auto":
        return config.device
    return "cuda:0" if require("torch", extra="torch").cuda.is_available() else "cpu"


_LOADERS: Final[dict[str, Callable[[_Parts], Engine]]] = {
    "openvino": _openvino,
    "onnx": _onnx,
    "huggingface": _huggingface,
}
"""By the type that a model asks for; fastest first."""
