"""Turns a GGUF file into a Hugging Face folder, and that into an ONNX folder, without a network."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Final

from nexus_jobs.adapters.packages import require
from nexus_jobs.adapters.processor import AMX, can
from nexus_jobs.errors import ModelUnavailable
from nexus_jobs.models import Precision

_BUILDER: Final = "onnxruntime_genai.models.builder"
_INT8: Final = ("block_size=64", "is_symmetric=false")
"""Where there is no AMX. An eighth faster than the builder's blocks of 32, and as near to float32.
Blocks of 128 are faster still, but further off, and their kernels round a row by how many share its
batch.
"""


def dequantise(gguf: Path, target: Path) -> None:
    """Write the weights of a GGUF file as float32 safetensors, with tokenizer and configuration.

    Raises:
        ModelUnavailable: the file cannot be read, its architecture is not supported, or a package
            is not installed.
    """
    for package in ("torch", "transformers", "accelerate", "gguf"):
        require(package, extra="torch")
    with _whole(target) as folder:
        try:
            with redirect_stderr(io.StringIO()):  # progress bars that cannot be switched off
                _save_dequantised(gguf, folder)
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            raise ModelUnavailable(f"{gguf} cannot be dequantised: {error}") from error


def build_onnx(huggingface: Path, target: Path, precision: Precision = "int8") -> None:
    """Export a Hugging Face folder to ONNX with onnxruntime-genai's model builder.

    The builder runs as a process of its own: it prints a lot and keeps the weights in memory.

    Raises:
        ModelUnavailable: the builder is not installed or does not support the model; the message
            ends with its words.
    """
    require("onnxruntime_genai", extra="torch")
    with _whole(target) as folder, tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        try:
            if precision == "int8" and can(AMX):
                from nexus_jobs.adapters.onnx_int8 import quantise

                _export(huggingface, Path(scratch) / "fp32", scratch, "fp32")
                quantise(Path(scratch) / "fp32", folder)
            else:
                _export(huggingface, folder, scratch, precision)
        except (OSError, subprocess.CalledProcessError) as error:
            words = str(getattr(error, "stderr", None) or error).strip().rpartition("\n")[2]
            raise ModelUnavailable(
                f"{huggingface} cannot be built as ONNX {precision}: {words}"
            ) from error


def _export(huggingface: Path, folder: Path, scratch: str, precision: Precision) -> None:
    subprocess.run(  # noqa: S603
        _builder_command(huggingface, folder, scratch, precision),
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A sibling folder that becomes `target` only if the block ends well."""
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _save_dequantised(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantised = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
    )
    # a model that was loaded from a quantised file refuses to be saved; a fresh one does not
    del quantised.config.quantization_config
    model = type(quantised)(quantised.config)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, local_files_only=True
    )
    tokenizer.save_pretrained(folder)


def _builder_command(
    huggingface: Path, folder: Path, scratch: str, precision: Precision
) -> list[str]:
    """`prune_lm_head` spares a prefill the logits of every prompt token; half precision keeps
    GroupQueryAttention only in the CUDA form of the graph.
    """
    arguments = {
        "--model_name": huggingface.name,
        "--input": str(huggingface),
        "--output": str(folder),
        "--precision": precision,
        "--execution_provider": "cuda" if precision == "fp16" else "cpu",
        "--cache_dir": scratch,
    }
    options = ["prune_lm_head=true", "hf_token=false", *(_INT8 if precision == "int8" else ())]
    words = [word for argument in arguments.items() for word in argument]
    return [sys.executable, "-m", _BUILDER, *words, "--extra_options", *options]
