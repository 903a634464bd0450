"""The forward passes of a Hugging Face model over a cache of slots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from nexus_jobs.adapters.engines.sampling import Floats, Ints, Sampler
from nexus_jobs.adapters.engines.slot_cache import STRIDE, SlotCache
from nexus_jobs.adapters.engines.torch_choice import choose_on_device
from nexus_jobs.adapters.engines.torch_graphs import SPAN_STRIDE, RecordedSteps, Recorder
from nexus_jobs.errors import ModelUnavailable


class TorchBackend:
    """A model with a cache of slots. Decoding gives each row a position and a mask of its own."""

    def __init__(
        self,
        model: PreTrainedModel,
        slots: int,
        longest: int,
        record: Recorder | None = None,
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
        logits: Floats = self._logits(tokens, lengths).float().cpu().numpy()
        return logits

    @torch.inference_mode()
    def next_tokens(self, tokens: Ints, lengths: Ints, samplers: Sequence[Sampler]) -> list[int]:
        """Decode, and choose on the device."""
        return choose_on_device(self._logits(tokens, lengths), samplers)

    def _logits(self, tokens: Ints, lengths: Ints) -> torch.Tensor:
        longest = int(lengths.max()) + 1
        self._cache.reserve(longest)
        inputs = np.stack((tokens, lengths, np.arange(len(tokens))))
        if self._steps is None:
            return self._forward(self._tensor(inputs), self._cache.span(longest, STRIDE))
        span = self._cache.span(longest, SPAN_STRIDE)
        return self._steps(inputs, span, self._cache.capacity)

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
