"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_URL = "http://127.0.0.1:8080"

Url = Annotated[str, typer.Option(envvar="NEXUS_URL", help="Where the API is.")]
MaxTokens = Annotated[int | None, typer.Option(help="The most tokens to generate.")]
Temperature = Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")]
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable.")]
Priority = Annotated[int | None, typer.Option(help="0 is the most urgent, 9 the least.")]

Host = Annotated[str | None, typer.Option(help="Instead of server.host.")]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Instead of server.port.")]
DataDir = Annotated[Path | None, typer.Option(help="Where everything is kept.", file_okay=False)]


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that were given."""
    return {name: value for name, value in values.items() if value is not None}
