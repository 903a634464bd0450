"""Runs a GGUF file, as it is, with OpenVINO's own continuous batching; the default on CPU.

The library schedules rows and prefills prompts in chunks itself. It reads the file and writes
nothing: no cache of the compiled model lies beside it.
"""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np

from nexus_jobs.adapters.engines.failures import engine_error
from nexus_jobs.adapters.packages import require
from nexus_jobs.adapters.tokenizer import FileTokenizer
from nexus_jobs.engine import Progress, Tokenizer, TokenSequence
from nexus_jobs.errors import InvalidRequest, ModelUnavailable
from nexus_jobs.job import FinishReason

_PREFILL_TOKENS: Final = 64
"""Prompt tokens a step. More let a long prompt begin sooner (at most 1.25 times), but make every
row beside it wait."""


class OpenVinoEngine:
    """Not reproducible: it rounds differently at other batch sizes, and rows share one generator
    of random numbers.
    """

    reproducible = False
    bounds_prefill = True
    device = "cpu"
    pid = None
    spare_seconds = 0.0

    def __init__(
        self,
        model: Path,
        *,
        tokenizer: FileTokenizer,
        slots: int,
        max_sequence_length: int,
        threads: int,
        max_batch_tokens: int | None = None,
        name: str = "openvino",
    ) -> None:
        """Load `model`, a GGUF file; `threads` 0 leaves their number to the library.

        Raises:
            ModelUnavailable: the package is missing, or does not support the model.
        """
        self.name = name
        self.slots = slots
        self.max_sequence_length = max_sequence_length
        self.tokenizer: Tokenizer = tokenizer
        self._ends = tokenizer.eos_token_ids
        self._model = model
        # the library counts the tokens of running rows as well
        self._step_tokens = slots + (max_batch_tokens or _PREFILL_TOKENS)
        self._properties = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        self._genai = require("openvino_genai", extra="cpu")
        self._tensor = require("openvino", extra="cpu").Tensor
        self._numbers = count()
        self._handles: dict[str, Any] = {}
        self._begun: set[str] = set()
        """Rows whose prompts have been read."""
        self._leaving: list[Any] = []
        """The handles of rows that were evicted before; see `evict`."""
        self._refused: dict[str, Progress] = {}
        """The ends of rows that the library would not take."""
        self._pipeline = self._load()

    def _load(self) -> Any:
        scheduler = self._genai.SchedulerConfig()
        scheduler.max_num_seqs = self.slots
        scheduler.max_num_batched_tokens = self._step_tokens
        scheduler.dynamic_split_fuse = True
        # Costs nothing where prompts differ. The cache grows with the rows and is bounded by them.
        scheduler.enable_prefix_caching = True
        try:
            with _kept_signal_stack():
                return self._genai.ContinuousBatchingPipeline(
                    str(self._model), scheduler, "CPU", self._properties
                )
        except RuntimeError as error:
            raise ModelUnavailable(
                f"openvino cannot open {self._model}: {_reason(error)}"
            ) from error

    def admit(self, sequences: Sequence[TokenSequence]) -> None:
        """A row whose parameters the library refuses fails alone, with the next step."""
        joined: dict[str, Any] = {}
        try:
            for sequence in sequences:
                if config := self._valid_generation(sequence):
                    prompt = self._tensor(np.array([sequence.prompt], dtype=np.int64))
                    joined[sequence.id] = self._pipeline.add_request(
                        next(self._numbers), prompt, config
                    )
        except Exception as error:
            for handle in joined.values():
                handle.cancel()
            raise engine_error(self.name, error, _reason(error)) from error
        self._handles.update(joined)

    def _valid_generation(self, sequence: TokenSequence) -> Any:
        config = self._generation(sequence)
        try:
            config.validate()
        except RuntimeError as error:
            refusal = InvalidRequest.of("refused_by_engine", f"{self.name}: {_reason(error)}")
            self._refused[sequence.id] = Progress(sequence.id, (), error=refusal)
            return None
        return config

    def step(self) -> list[Progress]:
        refused, self._refused = list(self._refused.values()), {}
        return refused + self._advance()

    def _advance(self) -> list[Progress]:
        if not self._handles and not self._leaving:
            return []
        try:
            self._pipeline.step()
            self._let_go()
            progress = [self._read(row, handle) for row, handle in self._handles.items()]
        except Exception as error:
            self._start_anew()
            raise engine_error(self.name, error, _reason(error)) from error
        for row in progress:
            if row.token_ids:
                self._begun.add(row.sequence_id)
            if row.finish_reason is not None:
                del self._handles[row.sequence_id]
                self._begun.discard(row.sequence_id)
        return [row for row in progress if row.token_ids or row.finish_reason is not None]

    def evict(self, sequence_id: str) -> None:
        """A row whose prompt is being read is let go when that is done.

        The library takes the blocks of a prompt that was read in part for whole ones, and whoever
        has the same beginning would get nonsense from then on (seen in openvino-genai 2026.4.1).
        """
        self._refused.pop(sequence_id, None)
        handle = self._handles.pop(sequence_id, None)
        if handle is None:
            return
        if sequence_id in self._begun:
            self._begun.discard(sequence_id)
            handle.cancel()
        else:
            self._leaving.append(handle)

    def _let_go(self) -> None:
        """Cancel those evicted rows that have their first token, or will never have one."""
        leaving, self._leaving = self._leaving, []
        for handle in leaving:
            if handle.can_read() or handle.get_status() != self._genai.GenerationStatus.RUNNING:
                handle.cancel()
            else:
                self._leaving.append(handle)

    def close(self) -> None:
        self._handles.clear()
        self._begun.clear()
        self._leaving.clear()
        self._refused.clear()
        self._pipeline = None

    def _start_anew(self) -> None:
        """What a failed step leaves in the pipeline is unknown; only a new one is surely empty."""
        self.close()
        self._pipeline = self._load()

    def _read(self, sequence_id: str, handle: Any) -> Progress:
        token_ids: list[int] = []
        ended = None
        while handle.can_read():
            (output,) = handle.read().values()
            token_ids += output.generated_ids
            ended = output.finish_reason
        if ended == self._genai.GenerationFinishReason.STOP:
            return Progress(sequence_id, token_ids[:-1], FinishReason.STOP)
        if ended == self._genai.GenerationFinishReason.LENGTH:
            return Progress(sequence_id, token_ids, FinishReason.LENGTH)
        if handle.get_status() == self._genai.GenerationStatus.IGNORED:
            raise MemoryError("the key-value cache cannot hold a row")
        return Progress(sequence_id, token_ids)

    def _generation(self, sequence: TokenSequence) -> Any:
        """The row's parameters in the library's words."""
        params = sequence.params
        limit = min(params.max_tokens, self.max_sequence_length - len(sequence.prompt))
        config = self._genai.GenerationConfig(
            max_new_tokens=limit,
            min_new_tokens=min(params.min_tokens, limit),
            ignore_eos=params.ignore_eos,
            repetition_penalty=params.repetition_penalty,
            stop_token_ids=set(self._ends),
        )
        if self._ends:
            config.eos_token_id = min(self._ends)
        if params.temperature > 0:
            config.do_sample = True
            config.temperature = params.temperature
            config.top_p = params.top_p
            # Without a seed of its own each row would start from the same default one.
            config.rng_seed = secrets.randbits(63) if params.seed is None else params.seed
            if params.top_k:
                config.top_k = params.top_k
        return config


@contextmanager
def _kept_signal_stack() -> Iterator[None]:
    """Leave the stack of this thread's signal handlers as it is, where there is such a thing.

    The library sets one of its own for each device that it opens, frees it when that is closed,
    and may leave it set: then the next signal that Python handles ends the process.
    """
    swap = getattr(ctypes.CDLL(None), "sigaltstack", None)
    before = ctypes.create_string_buffer(64)  # more than a stack_t takes anywhere
    if swap:
        swap(None, before)
    try:
        yield
    finally:
        if swap:
            swap(before, None)


def _reason(error: Exception) -> str:
    """What the library says, without the lines that tell where in its own sources."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
