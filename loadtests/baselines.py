"""What the platform is measured against: the same engine alone, in its best order and in others."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from loadtests.engine_bench import run, run_all
from loadtests.http_clients import Latency
from loadtests.prompts import Work
from nexus_jobs.adapters.engines.build import build_engine
from nexus_jobs.config import load_settings
from nexus_jobs.engine import TokenSequence
from nexus_jobs.job import Request, SamplingParams
from nexus_jobs.models import ModelConfig
from nexus_jobs.prompting import prompt_ids


class EngineAlone:
    """The model's engine as a worker loads it, with nothing around it.

    Throughputs are in tokens a second, with at most `width` rows at a time.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config

    def __enter__(self) -> EngineAlone:
        models_dir = load_settings().models_dir
        threads = len(os.sched_getaffinity(0))
        self._engine = build_engine(self._config, models_dir=models_dir, threads=threads)
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def in_best_order(self, work: Sequence[Work], width: int) -> float:
        """Longest answers first, a free slot filled at once."""
        return run_all(self._engine, self._rows(work), width).tokens_per_second

    def as_they_come(self, work: Sequence[Work], width: int) -> float:
        """In the order of the work, a free slot filled at once: what clients that never pause get
        at best.
        """
        return run(self._engine, self._rows(work), width).tokens_per_second

    def in_static_batches(self, work: Sequence[Work], width: int, *, padded: bool = False) -> float:
        """As they come; a batch begins when the longest answer of the last one has ended.

        It is what as many clients as a batch has rows see if they never pause. `padded` batches
        compute every row to the end of the longest, as `generate` of transformers does; only the
        tokens that were asked for count.
        """
        batches = [work[first : first + width] for first in range(0, len(work), width)]
        seconds = 0.0
        for batch in batches:
            longest = max(one.tokens for one in batch)
            done = [one._replace(tokens=longest) for one in batch] if padded else batch
            seconds += run_all(self._engine, self._rows(done), width).seconds
        return sum(one.tokens for one in work) / seconds

    def arriving(
        self, work: Sequence[Work], dues: Sequence[float], *, width: int, max_wait: float
    ) -> Latency:
        """From a row's arrival until its own end, in static batches.

        A batch begins when `width` rows wait, or when the oldest has waited `max_wait` seconds.
        """
        rows, started = self._rows(work), time.perf_counter()
        seconds: list[float] = []
        while (first := len(seconds)) < len(rows):
            full = dues[min(first + width, len(rows)) - 1]
            _sleep_until(started + min(full, dues[first] + max_wait))
            passed = time.perf_counter() - started
            last = sum(due <= passed for due in dues[: first + width])
            ends = self._run_batch(rows[first:last])
            seconds += [end - started - dues[first + n] for n, end in enumerate(ends)]
        return Latency.of(seconds)

    def _run_batch(self, rows: Sequence[TokenSequence]) -> list[float]:
        """Run the rows together; when each of them ended."""
        self._engine.admit(rows)
        ended: dict[str, float] = {}
        while len(ended) < len(rows):
            done = [row.sequence_id for row in self._engine.step() if row.finish_reason]
            ended |= dict.fromkeys(done, time.perf_counter())
        return [ended[row.id] for row in rows]

    def _rows(self, work: Sequence[Work]) -> list[TokenSequence]:
        return [self._row(str(number), one) for number, one in enumerate(work)]

    def _row(self, name: str, work: Work) -> TokenSequence:
        """The work as the platform would hand it to the engine."""
        request = Request(model=self._config.name, prompt=work.prompt)
        engine, params = self._engine, SamplingParams(max_tokens=work.tokens, ignore_eos=True)
        prompt = prompt_ids(request, self._config, engine.tokenizer, engine.max_sequence_length)
        return TokenSequence(name, prompt, params)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.perf_counter()))
