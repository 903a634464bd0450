"""How the commands print what they found."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from nexus_jobs.telemetry import wants_colour

console: Final = Console(highlight=False, markup=False)

_LEAST: Final = 20
"""So narrow may the last column of a table become; it is the one with sentences."""


def styled(text: str, **style: Any) -> str:
    """The text in colours or bold, where those are wanted; `typer.echo` drops them in a pipe."""
    return typer.style(text, **style) if wants_colour() else text


def say_error(message: str) -> None:
    """Print it on stderr, in red."""
    typer.echo(styled(message, fg=typer.colors.RED), err=True)


def show_document(document: Any) -> None:
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table in a terminal, values between tabs elsewhere; None is a dash.

    Nothing is cut, since a part of an id is of no use: where a terminal is too narrow for the
    table, each row is an entry of its own.
    """
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        for line in (columns, *cells):
            typer.echo("\t".join(line))
        return
    *widths, last = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    if sum(widths) + 2 * len(widths) + min(last, _LEAST) > console.width:
        _show_entries(columns, cells)
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column != columns[-1])
    for line in cells:
        table.add_row(*line)
    console.print(table)


def _show_entries(columns: Sequence[str], cells: Iterable[Sequence[str]]) -> None:
    for first, *others in cells:
        named = zip(columns[1:], others, strict=True)
        text = ", ".join(f"{column} {cell}" for column, cell in named if cell != "-")
        typer.echo(first)
        typer.echo(
            textwrap.fill(
                text,
                console.width,
                initial_indent="  ",
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
