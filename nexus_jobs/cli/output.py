"""How the commands print what they found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson
import typer
from rich.console import Console
from rich.table import Table

console: Final = Console(highlight=False, markup=False)


def show_document(document: Any) -> None:
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """An aligned table in a terminal, values between tabs elsewhere; None is a dash."""
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        for line in (columns, *cells):
            typer.echo("\t".join(line))
        return
    table = Table(*columns, box=None, pad_edge=False)
    for line in cells:
        table.add_row(*line)
    console.print(table)
