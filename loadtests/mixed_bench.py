"""A real model under mixed lengths: the platform against the same engine alone, in one run.

Machines drift by 10 % and more within minutes, so that the platform and the engine alone take
turns: each run of the platform is compared with the two of the engine beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import count, pairwise
from math import sqrt
from statistics import fmean, stdev
from typing import Final

from loadtests.baselines import EngineAlone
from loadtests.http_clients import Latency
from loadtests.prompts import Work, mixed_work, poisson
from loadtests.report import Row, Tables, figure, milliseconds
from loadtests.stacks import running
from loadtests.through_platform import ThroughPlatform, Throughput
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
        _compare(config, tables, quick=quick)
    return tables


def _compare(config: ModelConfig, tables: dict[str, list[Row]], *, quick: bool) -> None:
    """The platform idles while the engine alone runs, and the other way round."""
    document = config.model_dump(mode="json", exclude_unset=True)
    with running([document]) as stack, EngineAlone(config) as engine:
        platform = ThroughPlatform(stack, config.name)
        _Comparison(config, engine, platform, tables, quick=quick).run()


class _Comparison:
    """What one engine does alone and in the platform; each run gets prompts of its own."""

    def __init__(
        self,
        config: ModelConfig,
        engine: EngineAlone,
        platform: ThroughPlatform,
        tables: dict[str, list[Row]],
        *,
        quick: bool,
    ) -> None:
        self._config = config
        self._engine = engine
        self._platform = platform
        self._tables = tables
        self._takes = count()
        self._requests = 12 if quick else 160
        self._turns = 2 if quick else 5
        self._seconds = 2 if quick else 20

    def run(self) -> None:
        self._warm_up()
        self._single = self._engine.in_best_order(self._work()[:8], 1)
        self._run_at_once()
        self._run_closed()
        self._run_arrivals()
        self._run_short_among_long()

    def _warm_up(self) -> None:
        self._engine.in_best_order(self._work()[:CLIENTS], CLIENTS)
        self._platform.one_file(self._work()[:CLIENTS])

    def _run_at_once(self) -> None:
        slots = self._config.max_batch_size
        self._best = self._take_turns(
            AT_ONCE,
            "engine alone, best order",
            lambda: self._engine.in_best_order(self._work(), slots),
            "platform, one file",
            lambda: self._platform.one_file(self._work()),
        )
        static = self._engine.in_static_batches(self._work(), slots)
        padded = self._engine.in_static_batches(self._work(), slots, padded=True)
        self._note(AT_ONCE, f"static batches of {slots}", static, self._best)
        self._note(AT_ONCE, f"static batches of {slots}, padded", padded, self._best)
        self._note(AT_ONCE, "one by one", self._single, self._best)

    def _run_closed(self) -> None:
        alone = self._take_turns(
            CLOSED,
            f"engine alone, {CLIENTS} rows, as they come",
            lambda: self._engine.as_they_come(self._work(), CLIENTS),
            f"platform, {CLIENTS} clients",
            lambda: self._platform.with_clients(self._work(), CLIENTS),
        )
        best = self._engine.in_best_order(self._work(), CLIENTS)
        static = self._engine.in_static_batches(self._work(), CLIENTS)
        padded = self._engine.in_static_batches(self._work(), CLIENTS, padded=True)
        self._note(CLOSED, f"engine alone, {CLIENTS} rows, best order", best, alone)
        self._note(CLOSED, f"static batches of {CLIENTS}", static, alone)
        self._note(CLOSED, f"static batches of {CLIENTS}, padded", padded, alone)

    def _take_turns(
        self,
        title: str,
        engine: str,
        run_engine: Callable[[], float],
        platform: str,
        run_platform: Callable[[], Throughput],
    ) -> float:
        """Note how both compare; the mean of what the engine alone does, in tokens a second.

        "of the engine alone" is the mean over the turns, "+-" its standard error.
        """
        alone, whole = [run_engine()], []
        for _ in range(self._turns):
            whole.append(run_platform())
            alone.append(run_engine())
        beside = [(before + after) / 2 for before, after in pairwise(alone)]
        shares = [turn.tokens_per_second / two for turn, two in zip(whole, beside, strict=True)]
        error = stdev(shares) / sqrt(len(shares))
        rate = fmean(turn.tokens_per_second for turn in whole)
        stepping = fmean(turn.stepping for turn in whole)
        mean = fmean(alone)
        self._note(title, engine, mean, mean)
        measured = {"of the engine alone": fmean(shares), "+-": error, "engine stepping": stepping}
        self._note(title, platform, rate, mean, measured)
        return mean

    def _run_arrivals(self) -> None:
        work = self._work()
        mean_tokens = sum(one.tokens for one in work) / len(work)
        dues = poisson(LOAD * self._best / mean_tokens, len(work))
        load = self._platform.arriving(self._work(), dues)
        self._note_latency(ARRIVING, "platform", load.latency)
        slots = self._config.max_batch_size
        waited = self._engine.arriving(work, dues, width=slots, max_wait=MAX_WAIT)
        self._note_latency(ARRIVING, "static batches", waited)

    def _run_short_among_long(self) -> None:
        shorts = self._arrivals(SHORT, SHORT_LOAD)
        both = sorted(shorts + self._arrivals(LONG, LONG_LOAD))
        for name, arrivals in (("alone", shorts), (f"among {LONG}", both)):
            dues, work = zip(*arrivals, strict=True)
            load = self._platform.arriving(work, dues)
            taken = [a.seconds for a in load.answers if work[a.request].tokens == SHORT]
            self._note_latency(AMONG, name, Latency.of(taken))

    def _arrivals(self, tokens: int, share: float) -> list[tuple[float, Work]]:
        """Prompts with answers of so many tokens, which take that share of what the engine does."""
        rate = share * self._best / tokens
        dues = poisson(rate, max(2, round(rate * self._seconds)), seed=tokens)
        work = mixed_work(len(dues), next(self._takes))
        return [(due, one._replace(tokens=tokens)) for due, one in zip(dues, work, strict=True)]

    def _work(self) -> list[Work]:
        return mixed_work(self._requests, next(self._takes))

    def _note(
        self, title: str, run: str, tokens: float, alone: float, measured: Row | None = None
    ) -> None:
        row = {
            "engine": self._config.type,
            "run": run,
            "tokens/s": tokens,
            "of the engine alone": tokens / alone,
            "times one by one": tokens / self._single,
        }
        self._add(title, row | dict(measured or {}))

    def _note_latency(self, title: str, run: str, latency: Latency) -> None:
        self._add(title, {"engine": self._config.type, "run": run, **milliseconds(latency)})

    def _add(self, title: str, row: Row) -> None:
        """Say so at once, since the whole takes minutes."""
        self._tables[title].append(row)
        print("  ", *map(figure, row.values()), flush=True)
