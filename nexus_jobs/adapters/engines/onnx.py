"""Runs a model that onnxruntime-genai's builder exported, on plain ONNX Runtime sessions."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from nexus_jobs.adapters.engines.sampling import Floats, Ints
from nexus_jobs.adapters.engines.stepping import SPARE_SLOTS, SteppingEngine
from nexus_jobs.adapters.packages import require
from nexus_jobs.adapters.processor import PROCESSOR, can
from nexus_jobs.engine import Tokenizer
from nexus_jobs.errors import ModelUnavailable

_BATCH_TOKENS: Final = 128
"""Prompt tokens that a step prefills: about as long as a step of a full batch takes."""


class OnnxEngine(SteppingEngine):
    """Continuous batching over a folder of the builder's form: genai_config.json, model.onnx."""

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
    ) -> None:
        """Load the model; `threads` 0 is the cores that this process may use.

        Raises:
            ModelUnavailable: the folder is not of this form, or the device is not the CPU.
        """
        if device != "cpu":
            raise ModelUnavailable(f"the onnx engine runs on cpu, not on {device}")
        try:
            config = orjson.loads((folder / "genai_config.json").read_bytes())["model"]
            length = min(max_sequence_length, config["context_length"])
            eos = config["eos_token_id"]
            backend = OnnxBackend(folder, config["decoder"], slots + SPARE_SLOTS, length, threads)
        except Exception as error:  # onnxruntime raises no narrower class
            raise ModelUnavailable(f"{folder} cannot be loaded: {error}") from error
        super().__init__(
            backend,
            name=f"onnx {folder.name.removeprefix('onnx').lstrip('-')}".strip(),
            tokenizer=tokenizer,
            slots=slots,
            max_sequence_length=length,
            max_batch_tokens=max_batch_tokens or _BATCH_TOKENS,
            eos=eos if isinstance(eos, list) else [eos],
        )


class OnnxBackend:
    """A session whose past and present are the same buffers, so that no step copies the cache.

    Each of the two buffers a layer is [slots, kv_heads, capacity, head_size], padded on the right;
    the attention mask tells GroupQueryAttention the length of each row.
    """

    def __init__(
        self, folder: Path, decoder: Mapping[str, Any], slots: int, longest: int, threads: int
    ) -> None:
        self._session = _session(folder / decoder["filename"], threads)
        self._names = _cache_names(decoder)
        self._logits = decoder["outputs"]["logits"]
        self._ids = decoder["inputs"]["input_ids"]
        self._mask = decoder["inputs"]["attention_mask"]
        self._dtype = _dtype(self._session, self._names[0][0])
        vocabulary = self._session.get_outputs()[0].shape[-1]
        self._scores = np.empty((slots, 1, vocabulary), self._dtype)
        heads, size = decoder["num_key_value_heads"], decoder["head_size"]
        shape = (slots, heads, longest, size)
        self._cache = [_reserved(shape, self._dtype) for _ in self._names]
        self._bindings: dict[int, Any] = {}

    def prefill(self, first: int, tokens: Ints, start: int) -> None:
        rows, length = tokens.shape
        # GroupQueryAttention takes several rows of several tokens only if nothing is cached.
        together = 1 if start else rows
        for row in range(0, rows, together):
            part = tokens[row : row + together]
            # The mask hides nothing: a real token never looks at the padding that comes after it.
            mask = np.ones((len(part), start + length), np.int64)
            binding = self._binding(first + row, len(part))
            binding.bind_output(self._logits)
            self._run(binding, part, mask)

    def decode(self, tokens: Ints, lengths: Ints) -> Floats:
        total = int(lengths.max()) + 1
        rows = len(tokens)
        if rows not in self._bindings:
            self._bindings[rows] = self._binding(0, rows)
            self._bind(self._bindings[rows].bind_output, self._logits, self._scores[:rows])
        mask = (np.arange(total) <= lengths[:, None]).astype(np.int64)
        self._run(self._bindings[rows], tokens[:, None], mask)
        return self._scores[:rows, 0].astype(np.float32, copy=False)

    def move(self, source: int, target: int, length: int) -> None:
        for buffer in self._cache:
            buffer[target, :, :length] = buffer[source, :, :length]

    def _run(self, binding: Any, tokens: Ints, mask: Ints) -> None:
        binding.bind_cpu_input(self._ids, np.ascontiguousarray(tokens))
        binding.bind_cpu_input(self._mask, mask)
        self._session.run_with_iobinding(binding)

    def _binding(self, first: int, rows: int) -> Any:
        """Binds the cache of slots `first` to `first + rows`, as both past and present."""
        binding = self._session.io_binding()
        for (past, present), buffer in zip(self._names, self._cache, strict=True):
            part = buffer[first : first + rows]
            self._bind(binding.bind_input, past, part)
            self._bind(binding.bind_output, present, part)
        return binding

    def _bind(self, bind: Callable[..., None], name: str, array: NDArray[Any]) -> None:
        bind(name, "cpu", 0, self._dtype, array.shape, array.ctypes.data)


def _session(model: Path, threads: int) -> Any:
    ort = require("onnxruntime", extra="cpu")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.log_severity_level = 3
    # threads spin within a run, which is faster, but not after it, where others need the cores
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    needed = session.get_modelmeta().custom_metadata_map.get(PROCESSOR)
    if needed is not None and not can(needed):
        raise ModelUnavailable(f"it was built for processors with {needed}; build it on this one")
    return session


def _cache_names(decoder: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The names of past and present: key and value of every layer."""
    return [
        (
            decoder["inputs"][f"past_{kind}_names"] % layer,
            decoder["outputs"][f"present_{kind}_names"] % layer,
        )
        for layer in range(decoder["num_hidden_layers"])
        for kind in ("key", "value")
    ]


def _dtype(session: Any, name: str) -> type[np.floating[Any]]:
    kinds = {node.name: node.type for node in session.get_inputs()}
    return np.float16 if kinds[name] == "tensor(float16)" else np.float32


def _reserved(shape: tuple[int, ...], dtype: type[np.floating[Any]]) -> NDArray[Any]:
    """An array that takes memory, by small pages, only where it has been written to.

    So each slot has room for the longest row from the beginning, and nothing is ever copied.
    """
    memory = mmap.mmap(-1, math.prod(shape) * np.dtype(dtype).itemsize)
    with suppress(AttributeError, OSError):  # a system without huge pages has small ones anyway
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)
