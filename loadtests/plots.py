"""Draws what the bench has measured: loadtests/results/*.json to docs/img/*.png.

python -m loadtests.plots
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtests.bulk_bench import MEMORY, RATES
from loadtests.mixed_bench import AMONG, ARRIVING, AT_ONCE, CLOSED
from loadtests.platform_bench import COST, LOAD, WAITING
from loadtests.report import RESULTS, Row, Tables, figure
from loadtests.scaling_bench import WORKERS

IMAGES: Final = Path(__file__).parent.parent / "docs" / "img"
ROLES: Final = ("api", "worker", "valkey", "scheduler", "postgres", LOAD)
OURS: Final = "#2563eb"
OTHERS: Final = "#b6c2d2"
STYLE: Final = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "font.size": 8,
    "savefig.dpi": 90,
}


def platform(tables: Tables) -> Figure:
    """Answers a second by the number of clients, and where the processor time goes."""
    drawing, (rates, costs) = _panels(2, height=3.2)
    rows = tables[WAITING]
    names = [f"{row['database']}, {row['clients']} at a time" for row in rows]
    _bars(rates, names, [row["answers/s"] for row in rows])
    rates.set_title("Synchronous answers a second, engine at 0 ms")
    _stack(costs, [row for row in tables[COST] if row["clients"] > 1])
    costs.set_title(COST)
    return drawing


def mixed(tables: Tables) -> Figure:
    """Throughput against the engine alone, and latency against static batches."""
    drawing, axes = _panels(4, height=6.4)
    for panel, title in zip(axes, (AT_ONCE, CLOSED, ARRIVING, AMONG), strict=True):
        rows = tables[title]
        column = "tokens/s" if "tokens/s" in rows[0] else "p99 ms"
        names = [f"{row['engine']}, {row['run']}" for row in rows]
        ours = "among" if title == AMONG else "platform"
        _bars(panel, names, [row[column] for row in rows], ours=ours)
        panel.set_title(fill(f"{title}: {column}", 32))
    return drawing


def bulk(tables: Tables) -> Figure:
    """Rows a second on their way in, through and out, and memory."""
    drawing, (rates, memory) = _panels(2, height=2)
    [row] = tables[RATES]
    stages = [head for head in row if head.endswith("rows/s")]
    _bars(rates, stages, [row[stage] for stage in stages])
    rates.set_title(f"A file of {row['rows']:,} rows")
    rows = tables[MEMORY]
    _bars(memory, [row["process"] for row in rows], [row["peak MB"] for row in rows])
    memory.set_title("Peak memory, MB")
    return drawing


def scaling(tables: Tables) -> Figure:
    """Throughput over the number of workers, beside what would be proportional."""
    drawing, (panel,) = _panels(1, height=3)
    workers = [row["workers"] for row in tables[WORKERS]]
    panel.plot(workers, workers, color=OTHERS, label="proportional")
    times = [row["times one"] for row in tables[WORKERS]]
    panel.plot(workers, times, color=OURS, marker="o", label="measured")
    panel.set(title=WORKERS, xlabel="workers", ylabel="throughput, times one worker")
    panel.set_xticks(workers)
    panel.legend(frameon=False)
    return drawing


PLOTS: Final[Mapping[str, Callable[[Tables], Figure]]] = {
    "platform": platform,
    "mixed": mixed,
    "bulk": bulk,
    "scaling": scaling,
}


def _panels(count: int, *, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Panels in rows of two; `height` is in inches, of all rows together."""
    columns = min(count, 2)
    drawing = Figure(figsize=(4.5 * columns, height))
    return drawing, drawing.subplots(count // columns, columns, squeeze=False).flatten().tolist()


def _bars(
    panel: Axes, names: Sequence[str], values: Sequence[float], ours: str | None = None
) -> None:
    """A bar for each name, from the top; those that do not name `ours` stand back."""
    colours = [OURS if ours is None or ours in name else OTHERS for name in names]
    bars = panel.barh(range(len(names)), values, color=colours)
    panel.bar_label(bars, [figure(float(value)) for value in values], padding=2)
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.xaxis.set_visible(False)
    panel.spines["bottom"].set_visible(False)


def _stack(panel: Axes, rows: Sequence[Row]) -> None:
    """Each row's seconds by role, end to end."""
    names = [f"{row['database']}, {row['work']}, {row['clients']}" for row in rows]
    left = [0.0] * len(rows)
    for role in ROLES:
        widths = [row.get(role, 0.0) for row in rows]
        panel.barh(names, widths, left=left, label=role)
        left = [begin + width for begin, width in zip(left, widths, strict=True)]
    panel.invert_yaxis()
    panel.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def main() -> None:
    mpl.rcParams.update(STYLE)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for part, draw in PLOTS.items():
        source = RESULTS / f"{part}.json"
        if source.exists():
            target = IMAGES / f"{part}.png"
            draw(json.loads(source.read_text())["tables"]).savefig(target)
            print(target)


if __name__ == "__main__":
    main()
