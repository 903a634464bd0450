"""Runs decoder-only Hugging Face models on torch, on a CPU or a CUDA device."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from nexus_jobs.adapters.engines.stepping import SPARE_SLOTS, SteppingEngine
from nexus_jobs.adapters.engines.torch_backend import TorchBackend
from nexus_jobs.adapters.engines.torch_blocks import use_blocks
from nexus_jobs.adapters.engines.torch_graphs import Recorder, recorder
from nexus_jobs.adapters.packages import require
from nexus_jobs.engine import Tokenizer
from nexus_jobs.errors import ModelUnavailable

_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRECISIONS: Final = tuple(_DTYPES)
"""What the torch engine runs."""


class ModelEngine(SteppingEngine):
    """Continuous batching over a model in memory; tokens are chosen on its device."""

    _backend: TorchBackend

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        name: str,
        tokenizer: Tokenizer,
        slots: int,
        max_sequence_length: int,
        max_batch_tokens: int,
        eos: Iterable[int],
        record: Recorder | None = None,
    ) -> None:
        """With `record`, decode steps are recorded in a few shapes and replayed.

        Raises:
            ModelUnavailable: the architecture cannot be batched.
        """
        backend = TorchBackend(model, slots + SPARE_SLOTS, max_sequence_length, record)
        backend.require_ragged_rows()
        super().__init__(
            backend,
            name=name,
            tokenizer=tokenizer,
            slots=slots,
            max_sequence_length=max_sequence_length,
            max_batch_tokens=max_batch_tokens,
            eos=eos,
        )

    def _next_tokens(self) -> list[int]:
        pending = np.array([row.pending for row in self._rows])
        cached = np.array([row.cached for row in self._rows])
        return self._backend.next_tokens(pending, cached, [row.sampler for row in self._rows])


class TorchEngine(ModelEngine):
    """Continuous batching over a Hugging Face folder of safetensors; runs no code from it."""

    def __init__(
        self,
        folder: Path,
        *,
        tokenizer: Tokenizer,
        slots: int,
        max_sequence_length: int,
        threads: int,
        max_batch_tokens: int | None = None,
        device: str = "cpu",
        precision: str | None = None,
    ) -> None:
        """Load the model. `threads` 0 is one for each core that this process may use.

        A `precision` of None is fp32 on a CPU, whatever the chip, so that all workers of a model
        answer alike, and bf16 on CUDA. `max_batch_tokens` of None is 256 on a CPU and 1024 on
        CUDA: enough that arithmetic bounds a prefill, and few enough not to hold up running rows.

        Raises:
            ModelUnavailable: the folder cannot be loaded, or the architecture cannot be batched.
        """
        # Makes MKL round a row alike in every batch, or nearly so: see `use_blocks`. MKL reads it
        # when it first multiplies.
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
        torch.set_num_threads(threads or _cores())
        precision = precision or ("fp32" if device == "cpu" else "bf16")
        try:
            model = _load(folder, _DTYPES[precision], device)
        except Exception as error:  # transformers raises no narrower class
            raise ModelUnavailable(f"{folder} cannot be loaded: {error}") from error
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        length = min(max_sequence_length, context or max_sequence_length)
        super().__init__(
            model,
            name=f"torch {precision}",
            tokenizer=tokenizer,
            slots=slots,
            max_sequence_length=length,
            max_batch_tokens=max_batch_tokens or (256 if device == "cpu" else 1024),
            eos=_eos(model),
            record=recorder(model.device),
        )
        self.device = device
        if device == "cpu" and not self.reproducible:
            use_blocks(model)
            self.reproducible = self._rows_are_independent()

    def close(self) -> None:
        super().close()
        gc.collect()  # a model refers to itself
        if self.device != "cpu":
            torch.cuda.empty_cache()


def _load(folder: Path, dtype: torch.dtype, device: str) -> Any:
    require("transformers.utils.logging", extra="torch").disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    if device == "cpu" and dtype is torch.bfloat16:  # needs them on every chip we know
        use_blocks(model)
    return model.to(device).eval()


def _cores() -> int:
    """How many this process may use; not every system can limit it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _eos(model: PreTrainedModel) -> list[int]:
    """The end-of-sequence ids; a model may have one, several or none."""
    eos: Any = model.generation_config.eos_token_id
    if eos is None:
        return []
    return eos if isinstance(eos, list) else [eos]
