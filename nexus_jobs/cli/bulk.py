"""`nexus bulk`: files of prompts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

import typer

from nexus_jobs.cli.options import DEFAULT_URL, MaxTokens, Priority, Seed, Temperature, Url
from nexus_jobs.cli.output import console, say_error, show_document
from nexus_jobs.cli.watching import patiently, rows_failed, watch
from nexus_jobs.client import Client, Document, Refused
from nexus_jobs.errors import ConfigError, NexusError

app = typer.Typer(help="Files of prompts.", no_args_is_help=True)

BulkId = Annotated[str, typer.Argument(metavar="BULK")]
InputFile = Annotated[
    Path,
    typer.Argument(exists=True, dir_okay=False, readable=True, help="A CSV file of prompts."),
]
OutputFile = Annotated[Path | None, typer.Option(help="Where the answers go.", dir_okay=False)]


@app.command()
def submit(
    file: InputFile,
    model: Annotated[str | None, typer.Option(help="The server's first one if not given.")] = None,
    prompt_column: Annotated[str | None, typer.Option(help="Which column to read.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    priority: Priority = None,
    follow: Annotated[bool, typer.Option("--watch", help="Follow it and save the output.")] = False,
    output: OutputFile = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Submit a file; prints the bulk's id. Columns like max_tokens overrule the options.

    With --watch the answers go to FILE.out.csv or --output; exit code 1 says that a row failed.
    """
    target = output or file.with_suffix(".out.csv")
    if output and not follow:
        raise typer.BadParameter("is of use only with --watch", param_hint="--output")
    if follow:
        _check_output(target)
    with Client(url) as client:
        fields = {
            "model": model or _first_model(client),
            "prompt_column": prompt_column,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "priority": priority,
        }
        given = {name: str(value) for name, value in fields.items() if value is not None}
        bulk_id = _submit(client, file, given)["id"]
        typer.echo(bulk_id)
        if follow:
            _finish(client, bulk_id, target)


@app.command()
def status(bulk: BulkId, url: Url = DEFAULT_URL) -> None:
    """Print how far a bulk is."""
    with Client(url) as client:
        show_document(client.bulk(bulk))


@app.command("watch")
def watch_bulk(
    bulk: BulkId,
    output: Annotated[Path, typer.Option(help="Where the answers go.", dir_okay=False)],
    url: Url = DEFAULT_URL,
) -> None:
    """Follow a bulk that was submitted before, and save its output."""
    _check_output(output)
    with Client(url) as client:
        _finish(client, bulk, output)


@app.command("output")
def save_output(
    bulk: BulkId,
    output: Annotated[Path, typer.Option(help="Where the answers go.", dir_okay=False)],
    url: Url = DEFAULT_URL,
) -> None:
    """Save the output as it is now: the input's columns, then the answers."""
    _check_output(output)
    with Client(url) as client:
        _save(client, bulk, output)


@app.command()
def cancel(bulk: BulkId, url: Url = DEFAULT_URL) -> None:
    """Cancel the rows of a bulk that have not ended."""
    with Client(url) as client:
        typer.echo(client.cancel_bulk(bulk)["state"])


@app.command()
def retry(bulk: BulkId, url: Url = DEFAULT_URL) -> None:
    """Run the rows of a bulk again that failed."""
    with Client(url) as client:
        typer.echo(client.retry_bulk(bulk)["state"])


def _submit(client: Client, file: Path, fields: Mapping[str, str]) -> Document:
    try:
        return client.submit_bulk(file, fields)
    except Refused as error:  # it speaks of the form's field
        message = str(error).replace("`prompt_column`", "--prompt-column")
        raise Refused(error.code, message) from error


def _first_model(client: Client) -> str:
    models = client.models()
    if not models:
        raise ConfigError("the server has no models; list some in configs/models.yaml")
    return str(models[0]["name"])


def _check_output(target: Path) -> None:
    """Find out before the work what would lose its result after it.

    Raises:
        BadParameter: no file can be written there.
    """
    if not target.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {target.parent}", param_hint="--output")
    try:
        with TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        message = f"nothing can be written in {target.parent}: {error.strerror}"
        raise typer.BadParameter(message, param_hint="--output") from error


def _finish(client: Client, bulk_id: str, output: Path) -> None:
    """Follow a bulk to its end and save the output; exit code 1 unless every row succeeded."""
    bulk = watch(client, bulk_id, console)
    if bulk["state"] != "completed":
        typer.echo(f"bulk {bulk_id} was {bulk['state']}", err=True)
        sys.exit(1)
    patiently(lambda: _save(client, bulk_id, output), console.print)
    if failed := rows_failed(bulk):
        say_error(f"{failed:,} of {bulk['total']:,} rows failed; the column `error` says why")
        sys.exit(1)


def _save(client: Client, bulk_id: str, output: Path) -> None:
    try:
        client.save_bulk_output(bulk_id, output)
    except OSError as error:
        raise NexusError(
            f"{output} cannot be written: {error.strerror}; "
            f"the answers are kept: nexus bulk output {bulk_id} --output FILE"
        ) from error
    typer.echo(f"Output: {output}")
