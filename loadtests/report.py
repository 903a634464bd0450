"""The one place that shows what a part of the bench measured, and keeps it as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from loadtests.http_clients import Latency

RESULTS: Final = Path(__file__).parent / "results"

Row = Mapping[str, Any]
Tables = Mapping[str, Sequence[Row]]
"""Rows by the title of their table; the keys of a row are the heads of the columns."""


def milliseconds(latency: Latency) -> Row:
    """The columns that show a latency."""
    return {
        "p50 ms": 1000 * latency.p50,
        "p95 ms": 1000 * latency.p95,
        "p99 ms": 1000 * latency.p99,
        "max ms": 1000 * latency.max,
    }


def keep(part: str, tables: Tables, *, quick: bool) -> Path:
    """Write `results/<part>.json`; a quick run's figures never replace real ones."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{part}{'.quick' if quick else ''}.json"
    machine = {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    file.write_text(json.dumps({"machine": machine, "tables": tables}, indent=2) + "\n")
    return file


def show(tables: Tables) -> None:
    console = Console(width=None if Console().is_terminal else 160)
    for title, rows in tables.items():
        console.print(as_table(title, rows))


def as_table(title: str, rows: Sequence[Row]) -> Table:
    """Columns in the order in which the rows first name them; what a row lacks is left blank."""
    heads = list(dict.fromkeys(head for row in rows for head in row))
    table = Table(title=title, title_justify="left")
    for head in heads:
        numeric = any(isinstance(row.get(head), int | float) for row in rows)
        table.add_column(head, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(figure(row.get(head, "")) for head in heads))
    return table


def figure(value: Any) -> str:
    """A number as short as its size allows: 12,345, 97.5, 0.83."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
