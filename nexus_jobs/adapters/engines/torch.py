"""Runs decoder-only Hugging Face models on torch, on a CPU or a CUDA device."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from nexus_jobs.adapters.engines.sampling import Floats, Ints
from nexus_jobs.adapters.engines.slot_cache import STRIDE, SlotCache
from nexus_jobs.adapters.engines.stepping import SPARE_SLOTS, SteppingEngine
from nexus_jobs.adapters.engines.torch_blocks import use_blocks
from nexus_jobs.adapters.engines.torch_graphs import SPAN_STRIDE, RecordedSteps, Run, recorder
from nexus_jobs.adapters.packages import require
from nexus_jobs.errors import ModelUnavailable
from nexus_jobs.ports import Tokenizer

_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRECISIONS: Final = tuple(_DTYPES)
"""What the torch engine runs."""


class TorchEngine(SteppingEngine):
    """Continuous batching over a Hugging Face folder of safetensors; runs no code from it."""

    def __init__(
        self,
        folder: Path,
        *,
        tokenizer: Tokenizer,
        slots: int,
        max_sequence_length: int,
        threads: int,
        max_batch_tokens: int = 256,
        device: str = "cpu",
        precision: str | None = None,
    ) -> None:
        """Load the model. `threads` 0 is one for each core that this process may use.

        A `precision` of None is fp32 on a CPU, whatever the chip, so that all workers of a model
        answer alike, and bf16 on CUDA.

        Raises:
            ModelUnavailable: the folder cannot be loaded, or the architecture cannot be batched.
        """
        # Makes MKL round a row alike in every batch. MKL reads it when it first multiplies.
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
        torch.set_num_threads(threads or _cores())
        precision = precision or ("fp32" if device == "cpu" else "bf16")
        try:
            model = _load(folder, _DTYPES[precision], device)
        except Exception as error:  # transformers raises no narrower class
            raise ModelUnavailable(f"{folder} cannot be loaded: {error}") from error
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        length = min(max_sequence_length, context or max_sequence_length)
        backend = TorchBackend(model, slots + SPARE_SLOTS, length, recorder(model.device))
        backend.require_ragged_rows()
        super().__init__(
            backend,
            name=f"torch {precision}",
            tokenizer=tokenizer,
            slots=slots,
            max_sequence_length=length,
            max_batch_tokens=max_batch_tokens,
            eos=_eos(model),
        )


class TorchBackend:
    """A model with a cache of slots. Decoding gives each row a position and a mask of its own."""

    def __init__(
        self,
        model: PreTrainedModel,
        slots: int,
        longest: int,
        record: Callable[[Run], Run] | None = None,
    ) -> None:
        """With `record`, decode steps are recorded in a few shapes and replayed."""
        self._model = model
        self._masks = _Masks(model)
        self._cache = SlotCache(slots + 1, longest)  # the last one is for rows that are padding
        self._steps = record and RecordedSteps(self._forward, record, slots, model.device)

    @torch.inference_mode()
    def prefill(self, first: int, tokens: Ints, start: int) -> None:
        end = start + tokens.shape[1]
        self._cache.reserve(end)
        self._cache.expect_prompts(first, start, end)
        positions = np.broadcast_to(np.arange(start, end), tokens.shape)
        # No mask but the causal one: a real token never looks at the padding that comes after it.
        self._model.base_model(
            input_ids=self._tensor(tokens),
            position_ids=self._tensor(positions),
            past_key_values=self._cache,
            use_cache=True,
        )

    @torch.inference_mode()
    def decode(self, tokens: Ints, lengths: Ints) -> Floats:
        longest = int(lengths.max()) + 1
        self._cache.reserve(longest)
        inputs = np.stack((tokens, lengths, np.arange(len(tokens))))
        if self._steps is None:
            output = self._forward(self._tensor(inputs), self._cache.span(longest, STRIDE))
        else:
            span = self._cache.span(longest, SPAN_STRIDE)
            output = self._steps(inputs, span, self._cache.capacity)
        logits: Floats = output.float().cpu().numpy()
        return logits

    def _forward(self, inputs: torch.Tensor, span: int) -> torch.Tensor:
        """Logits [rows, vocabulary]; asks the device nothing, so that it can be recorded.

        `inputs` [3, rows] are tokens, positions and slots; `span` is how many keys to look at.
        """
        tokens, at, slots = inputs.unbind()
        self._cache.expect_tokens(slots, at, span)
        output = self._model(
            input_ids=tokens[:, None],
            position_ids=at[:, None],
            attention_mask=self._masks.of(at, span),
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        self._cache.move(source, target, length)

    @torch.inference_mode()
    def require_ragged_rows(self) -> None:
        """Try whether this architecture heeds positions and masks.

        Raises:
            ModelUnavailable: a row that is decoded beside a longer one gets other logits than a
                plain pass over it.
        """
        try:
            row = np.arange(6)
            plain = self._model(input_ids=self._tensor(row[None])).logits[0, -1]
            self.prefill(0, np.arange(10)[None], 0)
            self.prefill(1, row[None, :-1], 0)
            beside = self.decode(np.array([10, row[-1]]), np.array([10, 5]))[1]
        except Exception as error:  # whatever an architecture raises that is not made for this
            raise ModelUnavailable(f"{self._model.config.model_type} cannot be batched") from error
        expected = plain.float().cpu().numpy()
        if np.abs(beside - expected).max() > 0.05 * np.abs(expected).max():
            raise ModelUnavailable(f"{self._model.config.model_type} cannot be batched row by row")

    def _tensor(self, values: Ints) -> torch.Tensor:
        return torch.tensor(values, device=self._model.device)


class _Masks:
    """What each row may look at in a decode step, for the kinds of attention a model has."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        self._dtype = model.dtype
        self._window = getattr(config, "sliding_window", None)
        uniform = "full_attention" if self._window is None else "sliding_attention"
        self._kinds = set(getattr(config, "layer_types", None) or [uniform])
        if unknown := self._kinds - {"full_attention", "sliding_attention"}:
            raise ModelUnavailable(f"{config.model_type}: no cache for {', '.join(unknown)}")

    def of(self, at: torch.Tensor, span: int) -> torch.Tensor | dict[str, torch.Tensor]:
        """Additive masks [rows, 1, 1, span] for tokens at the positions `at` [rows]."""
        masks = {kind: self._mask(kind, at[:, None, None, None], span) for kind in self._kinds}
        return masks if len(masks) > 1 else masks.popitem()[1]

    def _mask(self, kind: str, at: torch.Tensor, span: int) -> torch.Tensor:
        keys = torch.arange(span, device=at.device)
        hidden = keys > at
        if kind == "sliding_attention" and self._window is not None:
            hidden |= keys <= at - self._window
        blank = torch.zeros(hidden.shape, dtype=self._dtype, device=at.device)
        return blank.masked_fill_(hidden, torch.finfo(self._dtype).min)


def _load(folder: Path, dtype: torch.dtype, device: str) -> Any:
    require("transformers.utils.logging", extra="torch").disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    if device == "cpu" and dtype is torch.bfloat16:
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
