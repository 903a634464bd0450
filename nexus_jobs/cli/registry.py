"""`nexus models`: those of a server; register, look at, load, unload and remove them."""

from __future__ import annotations

from typing import Annotated

import typer

from nexus_jobs.cli.options import DEFAULT_URL, Url, given
from nexus_jobs.cli.output import show_document
from nexus_jobs.client import LONGEST_WAIT, Client
from nexus_jobs.models import EngineType, Precision

Name = Annotated[str, typer.Argument(metavar="MODEL")]
Wait = Annotated[
    float,
    typer.Option(min=0, max=LONGEST_WAIT, help="Seconds to wait until it is so, or has failed."),
]


def add(
    name: Name,
    path: Annotated[
        str | None,
        typer.Option(help="A pulled model, a folder under the model root, or an upstream's URL."),
    ] = None,
    kind: Annotated[
        EngineType | None, typer.Option("--type", help="What is to run it; `auto` if left out.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Load these weights only: sha256:... or a hub's commit.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda:N.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="Of the weights.")] = None,
    max_batch_size: Annotated[int | None, typer.Option(help="Slots on a worker.")] = None,
    max_sequence_length: Annotated[
        int | None, typer.Option(help="Prompt and answer together, in tokens.")
    ] = None,
    upstream_model: Annotated[
        str | None, typer.Option(help="What an upstream server calls the model.")
    ] = None,
    key_env: Annotated[
        str | None, typer.Option(help="The workers' variable that holds an upstream's key.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Register a model, or a new version of one."""
    upstream = given({"model": upstream_model, "key_env": key_env})
    body = {
        "name": name,
        "path": path,
        "type": kind,
        "revision": revision,
        "device": device,
        "precision": precision,
        "max_batch_size": max_batch_size,
        "max_sequence_length": max_sequence_length,
        "upstream": upstream or None,
    }
    with Client(url) as client:
        model = client.register_model(given(body))
    typer.echo(f"{model['name']}: version {model['version']}, {model['state']}")
    if model["unchecked"]:
        typer.echo(f"not checked yet: {model['unchecked']}", err=True)


def remove(name: Name, url: Url = DEFAULT_URL) -> None:
    """Take a model off the registry; its files stay."""
    with Client(url) as client:
        client.remove_model(name)


def load(name: Name, wait: Wait = 0.0, url: Url = DEFAULT_URL) -> None:
    """Have a model on at least one worker, always."""
    _want(name, "load", wait, url)


def unload(name: Name, wait: Wait = 0.0, url: Url = DEFAULT_URL) -> None:
    """Have a model on no worker; its jobs are accepted and wait."""
    _want(name, "unload", wait, url)


def auto(name: Name, url: Url = DEFAULT_URL) -> None:
    """Leave it to the scheduler when a model is loaded and unloaded."""
    _want(name, "auto", 0.0, url)


def show(name: Name, url: Url = DEFAULT_URL) -> None:
    """Print all that is known of a model, as JSON."""
    with Client(url) as client:
        show_document(client.model(name))


def _want(name: str, call: str, wait: float, url: str) -> None:
    with Client(url) as client:
        model = client.want_model(name, call, wait)
    reason = f": {model['reason']}" if model["reason"] else ""
    typer.echo(f"{name}: {model['state']}, wanted {model['wanted']}{reason}")
    if model["state"] == "failed":
        raise typer.Exit(1)
