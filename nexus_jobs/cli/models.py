"""`nexus models`: the models on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from nexus_jobs.cli import registry
from nexus_jobs.cli.options import DEFAULT_URL, DataDir, Url
from nexus_jobs.cli.output import console, show_table
from nexus_jobs.cli.tune import tune
from nexus_jobs.client import Client, Document, ServerUnreachable
from nexus_jobs.config import Settings, load_settings
from nexus_jobs.errors import ModelUnavailable
from nexus_jobs.models import ModelConfig, Precision, load_models

if TYPE_CHECKING:
    from nexus_jobs.adapters.model_folder import ModelFolder
    from nexus_jobs.adapters.model_folder import Progress as Report
    from nexus_jobs.adapters.model_listing import ModelEntry

Row = tuple[object, ...]

app = typer.Typer(help="The models of a server, and those on this machine.", no_args_is_help=True)
app.command()(tune)
app.command()(registry.add)
app.command()(registry.show)
app.command()(registry.load)
app.command()(registry.unload)
app.command()(registry.auto)
app.command()(registry.remove)

_COLUMNS: Final = ("name", "state", "engine", "type", "precision", "size", "formats")


@app.command()
def pull(
    source: Annotated[
        str, typer.Argument(help="smollm2-135m, hf:ORGANISATION/NAME, a folder or a GGUF file.")
    ],
    name: Annotated[str | None, typer.Option(help="What to call it here.")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="Also build it as `onnx` or `huggingface`; repeatable."),
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="Of the ONNX model.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Bring a model onto this machine; does nothing if it is there."""
    from nexus_jobs.adapters import model_files

    with _stages() as report:
        model = model_files.pull(
            source,
            models_dir=_settings(data_dir).models_dir,
            name=name,
            formats=formats or (),
            precision=precision,
            progress=report,
        )
    typer.echo(f"{model.name}: {', '.join(model.formats)}, {decimal(model.size)}, {model.path}")


@app.command("list")
def list_models(data_dir: DataDir = None, url: Url = DEFAULT_URL) -> None:
    """List what the models file names and what is pulled; with a server also what it serves."""
    from nexus_jobs.adapters import model_listing

    settings = _settings(data_dir)
    served = _served(url)
    configured = load_models(settings.models_file)
    folders = {model.name: _folder(settings, model) for model in configured}
    rows = [_configured(model, folders[model.name], served.get(model.name)) for model in configured]
    shown = {folder.name for folder in folders.values() if folder}
    rows += [_only_served(one) for name, one in served.items() if name not in folders]
    pulled = model_listing.list_models(settings.models_dir)
    rows += [_only_pulled(entry) for entry in pulled if entry.name not in shown | served.keys()]
    show_table(_COLUMNS, rows)


def _configured(model: ModelConfig, folder: ModelFolder | None, served: Document | None) -> Row:
    state = "not pulled" if model.has_weights else "no weights needed"
    engine = None
    if folder:
        state = "pulled"
    if served:
        state, engine = served["state"], served["engine"]
    return (model.name, state, engine, model.type, *_weights(folder))


def _only_served(served: Document) -> Row:
    return (served["name"], served["state"], served["engine"], served["type"], None, None, None)


def _only_pulled(entry: ModelEntry) -> Row:
    details = (entry.precision, decimal(entry.size), " ".join(entry.formats))
    return (entry.name, f"{entry.state}, not in the models file", None, None, *details)


def _weights(folder: ModelFolder | None) -> Row:
    if folder is None:
        return (None, None, None)
    return (folder.manifest.precision, decimal(folder.size), " ".join(folder.formats))


def _folder(settings: Settings, model: ModelConfig) -> ModelFolder | None:
    from nexus_jobs.adapters import model_files

    try:
        return model_files.resolve(model, settings.models_dir)
    except ModelUnavailable:
        return None


def _served(url: str) -> dict[str, Document]:
    """What a server says of its models, by name; nothing if there is none."""
    try:
        with Client(url) as client:
            return {model["name"]: model for model in client.models()}
    except ServerUnreachable:
        return {}


def _settings(data_dir: Path | None) -> Settings:
    return load_settings(data_dir=data_dir) if data_dir else load_settings()


@contextmanager
def _stages() -> Iterator[Report]:
    """A progress bar for each stage; in a log, a line for each."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def report(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
                if not console.is_terminal:
                    typer.echo(f"{stage} ...")
            progress.update(tasks[stage], completed=done, total=total)

        yield report
