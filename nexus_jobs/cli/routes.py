"""`nexus routes`: public names that stand for models."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import typer

from nexus_jobs.cli.options import DEFAULT_URL, Url
from nexus_jobs.cli.output import show_document, show_table
from nexus_jobs.client import Client, Document
from nexus_jobs.route import Algorithm

app = typer.Typer(help="Public names that stand for models.", no_args_is_help=True)

_COLUMNS: Final = ("name", "algorithm", "model", "weight", "available", "breaker", "outstanding")

Name = Annotated[str, typer.Argument(metavar="ROUTE")]


@app.command("list")
def list_routes(url: Url = DEFAULT_URL) -> None:
    """List the routes, a line for each model, and how those stand."""
    with Client(url) as client:
        show_table(_COLUMNS, [row for route in client.routes() for row in _rows(route)])


@app.command("set")
def put(
    name: Name,
    target: Annotated[list[str], typer.Option(help="MODEL or MODEL=WEIGHT; repeatable.")],
    algorithm: Annotated[Algorithm | None, typer.Option(help="How to choose.")] = None,
    failure_threshold: Annotated[
        int | None, typer.Option(help="Failures in a row after which a target gets no more.")
    ] = None,
    open_seconds: Annotated[
        float | None, typer.Option(help="The time until such a target is tried again.")
    ] = None,
    fallback: Annotated[
        list[str] | None,
        typer.Option(help="A model to take when no target can be had; repeatable."),
    ] = None,
    otherwise: Annotated[
        Literal["queue", "refuse"] | None, typer.Option(help="When there is no fallback either.")
    ] = None,
    shadow: Annotated[
        str | None, typer.Option(help="MODEL=PERCENT: a model that runs copies of requests.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Add a route, or replace the one of that name."""
    config = {
        "targets": [_numbered(text, "weight") for text in target],
        "algorithm": algorithm,
        "failure_threshold": failure_threshold,
        "open_seconds": open_seconds,
        "fallback": fallback,
        "otherwise": otherwise,
        "shadow": _numbered(shadow, "percent") if shadow else None,
    }
    with Client(url) as client:
        given = {key: value for key, value in config.items() if value is not None}
        show_document(client.put_route(name, given))


@app.command()
def show(name: Name, url: Url = DEFAULT_URL) -> None:
    """Print all about a route, and how its models stand."""
    with Client(url) as client:
        show_document(client.route(name))


@app.command()
def remove(name: Name, url: Url = DEFAULT_URL) -> None:
    """Remove a route; jobs that came by it run where they are."""
    with Client(url) as client:
        client.remove_route(name)
    typer.echo(f"removed: {name}")


def _numbered(text: str, what: str) -> dict[str, Any]:
    """MODEL or MODEL=NUMBER as the server wants it."""
    model, _, number = text.partition("=")
    try:
        return {"model": model, what: float(number)} if number else {"model": model}
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r}: write MODEL={what.upper()}, as in {model}=2"
        ) from error


def _rows(route: Document) -> list[tuple[object, ...]]:
    weights = {target["model"]: target["weight"] for target in route["targets"]}
    return [
        (
            *(route["name"], route["algorithm"], model["model"]),
            weights.get(model["model"], "fallback"),
            "yes" if model["available"] else "no",
            *(model["breaker"], model["outstanding"]),
        )
        for model in route["models"]
    ]
