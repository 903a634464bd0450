"""A real model under mixed lengths: the platform against the same engine alone, in one run."""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from typing import Final

from loadtests.baselines import EngineAlone
from loadtests.http_clients import Latency
from loadtests.prompts import Work, mixed_work, poisson
from loadtests.report import Row, Tables, figure, milliseconds
from loadtests.stacks import running
from loadtests.through_platform import ThroughPlatform
from nexus_jobs.adapters.model_files import pull
from nexus_jobs.config import load_settings
from nexus_jobs.models import ModelConfig, load_models

NAME: Final = "smollm2-135m"
SLOTS: Final = {"openvino": 64, "onnx": 64}
CLIENTS: Final = 16
MAX_WAIT: Final = 0.05
"""Seconds that a static batch waits for more rows."""
LOAD: Final = 0.7
"""Arriving work, as a share of what the engine alone does in its best order."""
SHORT: Final = 8
SHORT_LOAD: Final = 0.1
LONG: Final = 128
LONG_LOAD: Final = 0.5

AT_ONCE: Final = "Mixed lengths, all at once"
CLOSED: Final = f"Mixed lengths, {CLIENTS} clients"
ARRIVING: Final = f"Mixed lengths, arriving at {LOAD:.0%} of what the engine alone can do"
AMONG: Final = f"Answers of {SHORT} tokens, alone and among such of {LONG}"


def measure(*, quick: bool) -> Tables:
    """All do the same work: every answer must have just the tokens that were asked for."""
    pull(NAME, models_dir=load_settings().models_dir)
    (shipped,) = (m for m in load_models(load_settings().models_file) if m.name == NAME)
    tables: dict[str, list[Row]] = defaultdict(list)
    for kind, slots in SLOTS.items():
        config = shipped.model_copy(update={"type": kind, "max_batch_size": slots})
        _compare(_Comparison(config, tables, quick=quick))
    return tables


def _compare(comparison: _Comparison) -> None:
    """The engine alone runs before and after the platform, to show how steady the machine is."""
    config = comparison.config
    with EngineAlone(config) as engine:
        comparison.run_engine(engine)
    with running([config.model_dump(mode="json", exclude_unset=True)]) as stack:
        comparison.run_platform(ThroughPlatform(stack, config.name))
    with EngineAlone(config) as engine:
        comparison.run_engine_again(engine)


class _Comparison:
    """What one engine did alone and in the platform; each run gets prompts of its own."""

    def __init__(self, config: ModelConfig, tables: dict[str, list[Row]], *, quick: bool) -> None:
        self.config = config
        self._slots = config.max_batch_size
        self._tables = tables
        self._takes = count()
        self._requests = 12 if quick else 96
        self._seconds = 2 if quick else 20

    def run_engine(self, engine: EngineAlone) -> None:
        engine.in_best_order(self._work()[:CLIENTS], CLIENTS)  # warms it up
        self._best = engine.in_best_order(self._work(), self._slots)
        self._single = engine.in_best_order(self._work()[:8], 1)
        static = engine.in_static_batches(self._work(), self._slots)
        self._note(AT_ONCE, "engine alone, best order", self._best, self._best)
        self._note(AT_ONCE, f"static batches of {self._slots}", static, self._best)
        self._note(AT_ONCE, "one by one", self._single, self._best)
        self._run_few(engine)
        self._run_static_arrivals(engine)

    def _run_few(self, engine: EngineAlone) -> None:
        self._few = engine.as_they_come(self._work(), CLIENTS)
        best = engine.in_best_order(self._work(), CLIENTS)
        static = engine.in_static_batches(self._work(), CLIENTS)
        self._note(CLOSED, f"engine alone, {CLIENTS} rows, as they come", self._few, self._few)
        self._note(CLOSED, f"engine alone, {CLIENTS} rows, best order", best, self._few)
        self._note(CLOSED, f"static batches of {CLIENTS}", static, self._few)

    def _run_static_arrivals(self, engine: EngineAlone) -> None:
        work = self._work()
        mean_tokens = sum(one.tokens for one in work) / len(work)
        self._dues = poisson(LOAD * self._best / mean_tokens, len(work))
        waited = engine.arriving(work, self._dues, width=self._slots, max_wait=MAX_WAIT)
        self._note_latency(ARRIVING, "static batches", waited)

    def run_platform(self, platform: ThroughPlatform) -> None:
        platform.one_file(self._work()[:CLIENTS])  # warms it up
        rate, stepping = platform.one_file(self._work())
        self._note(AT_ONCE, "platform, one file", rate, self._best, stepping)
        rate, stepping = platform.with_clients(self._work(), CLIENTS)
        self._note(CLOSED, f"platform, {CLIENTS} clients", rate, self._few, stepping)
        load = platform.arriving(self._work(), self._dues)
        self._note_latency(ARRIVING, "platform", load.latency)
        self._run_short_among_long(platform)

    def _run_short_among_long(self, platform: ThroughPlatform) -> None:
        shorts = self._arrivals(SHORT, SHORT_LOAD)
        both = sorted(shorts + self._arrivals(LONG, LONG_LOAD))
        for name, arrivals in (("alone", shorts), (f"among {LONG}", both)):
            dues, work = zip(*arrivals, strict=True)
            load = platform.arriving(work, dues)
            taken = [a.seconds for a in load.answers if work[a.request].tokens == SHORT]
            self._note_latency(AMONG, name, Latency.of(taken))

    def _arrivals(self, tokens: int, share: float) -> list[tuple[float, Work]]:
        """Prompts with answers of so many tokens, which take that share of what the engine does."""
        rate = share * self._best / tokens
        dues = poisson(rate, max(2, round(rate * self._seconds)), seed=tokens)
        work = mixed_work(len(dues), next(self._takes))
        return [(due, one._replace(tokens=tokens)) for due, one in zip(dues, work, strict=True)]

    def run_engine_again(self, engine: EngineAlone) -> None:
        engine.in_best_order(self._work()[:CLIENTS], CLIENTS)  # warms it up
        again = engine.in_best_order(self._work(), self._slots)
        self._note(AT_ONCE, "engine alone again, at the end", again, self._best)

    def _work(self) -> list[Work]:
        return mixed_work(self._requests, next(self._takes))

    def _note(
        self, title: str, run: str, tokens: float, best: float, stepping: float | None = None
    ) -> None:
        row = {
            "engine": self.config.type,
            "run": run,
            "tokens/s": tokens,
            "of the engine alone": tokens / best,
            "times one by one": tokens / self._single,
        }
        stepped = {} if stepping is None else {"engine stepping": stepping}
        self._add(title, row | stepped)

    def _note_latency(self, title: str, run: str, latency: Latency) -> None:
        self._add(title, {"engine": self.config.type, "run": run, **milliseconds(latency)})

    def _add(self, title: str, row: Row) -> None:
        """Say so at once, since the whole takes minutes."""
        self._tables[title].append(row)
        print("  ", *map(figure, row.values()), flush=True)
