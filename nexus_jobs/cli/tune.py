"""`nexus models tune`: finds the fastest way to run a model on this machine, and keeps it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from nexus_jobs.cli.options import DataDir
from nexus_jobs.cli.output import console, show_table
from nexus_jobs.config import load_settings
from nexus_jobs.errors import ConfigError, EngineError, ModelUnavailable
from nexus_jobs.models import ModelConfig, load_models
from nexus_jobs.spelling import did_you_mean
from nexus_jobs.tuning import VARIANTS, Measurement, Variant, best, endless_load, throughput

SLOTS: Final = (8, 16, 32, 64, 96)
_COLUMNS: Final = ("engine", "slots", "tokens/s", "ms per token", "")


def tune(
    name: Annotated[str, typer.Argument(help="A model of the models file.")],
    models: Annotated[
        Path | None, typer.Option(help="The models file, if not that of the settings.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="For all measurements together.")] = 120,
    slots: Annotated[
        list[int] | None, typer.Option(min=1, max=4096, help="How many to try; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show; change no file.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Measure which engine, precision and slots are fastest here; write them to the models file.

    Engines are loaded, and formats built, on top of the --seconds. Stop other work meanwhile.
    """
    settings = load_settings(data_dir=data_dir) if data_dir else load_settings()
    file = models or settings.models_file
    model = _find(file, name)
    tried = sorted(set(slots or SLOTS))
    measure = _Measuring(model, settings.models_dir, settings.worker.threads, tried, seconds)
    measured = measure.all()
    if not measured:
        reasons = "\n".join(measure.failures)
        raise ModelUnavailable(f"no engine can run model {name} here\n{reasons}")
    choice = best(measured)
    show_table(_COLUMNS, [_row(m, choice) for m in measured])
    for reason in measure.failures:
        typer.echo(f"Not measured: {reason}")
    if not dry_run:
        _keep(file, name, choice)


def _find(file: Path, name: str) -> ModelConfig:
    models = {model.name: model for model in load_models(file)}
    if name not in models:
        raise ConfigError(f"{file} has no model {name!r}" + did_you_mean(name, models))
    if models[name].type in ("simulated", "upstream"):
        raise ConfigError(f"model {name} is of type {models[name].type}, which cannot be tuned")
    return models[name]


class _Measuring:
    """Runs every variant of a model; `failures` says which could not run and why."""

    def __init__(
        self, model: ModelConfig, models_dir: Path, threads: int, slots: Sequence[int], total: float
    ) -> None:
        """`slots` are the numbers to try, `total` the seconds for all measurements together."""
        self.failures: list[str] = []
        self._model = model
        self._models_dir = models_dir
        self._threads = threads
        self._slots = slots
        self._seconds = total / (len(VARIANTS) * len(slots))

    def all(self) -> list[Measurement]:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        measured: list[Measurement] = []
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("", total=len(VARIANTS) * len(self._slots))
            for number, variant in enumerate(VARIANTS):
                progress.update(task, description=str(variant))
                try:
                    for measurement in self._measurements(variant):
                        measured.append(measurement)
                        progress.advance(task)
                except (ConfigError, EngineError, ModelUnavailable) as error:
                    self.failures.append(f"{variant}: {error}")
                progress.update(task, completed=(number + 1) * len(self._slots))
        return measured

    def _measurements(self, variant: Variant) -> Iterator[Measurement]:
        from nexus_jobs.adapters.engines.build import build_engine

        changes = _settings_of(variant, self._slots[-1])
        config = ModelConfig.model_validate(self._model.model_dump() | changes)
        engine = build_engine(config, models_dir=self._models_dir, threads=self._threads)
        try:
            for slots in self._slots:
                load = endless_load(engine.tokenizer, slots)
                speed = throughput(
                    engine, load, slots=slots, seconds=self._seconds, clock=time.perf_counter
                )
                yield Measurement(variant, slots, speed)
        finally:
            engine.close()


def _settings_of(variant: Variant, slots: int) -> dict[str, object]:
    """The keys of a model that runs like this."""
    return {"type": variant.type, "precision": variant.precision, "max_batch_size": slots}


def _row(measured: Measurement, choice: Measurement) -> tuple[object, ...]:
    speed, wait = f"{measured.tokens_per_second:.0f}", f"{measured.ms_per_token:.0f}"
    mark = "best" if measured == choice else ""
    return (measured.variant, measured.slots, speed, wait, mark)


def _keep(file: Path, name: str, choice: Measurement) -> None:
    from nexus_jobs.adapters.models_file import change_model

    change_model(file, name, _settings_of(choice.variant, choice.slots))
    typer.echo(f"{file}: model {name} runs on {choice.variant} with {choice.slots} slots now")
