"""Measures the whole platform; prints a table and writes loadtests/results/bench.json.

    python loadtests/bench.py [batching] [memory]

`batching`: one file of varied prompts with the default settings and one by one, in one run.
`memory`: a large file on the simulated engine, and the most memory each process took meanwhile.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtests.prompts import varied_prompts
from nexus_jobs.adapters.model_files import pull
from nexus_jobs.config import load_models, load_settings
from tests.e2e.stack import Stack, until

RESULTS = Path(__file__).parent / "results"
MODEL = "smollm2-135m"


@dataclass(frozen=True)
class Measured:
    """What came of one bulk."""

    rows: int
    succeeded: int
    in_order: bool
    tokens: int
    upload_seconds: float
    run_seconds: float
    download_seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.run_seconds


def run_bulk(stack: Stack, model: str, rows: Sequence[dict[str, Any]], timeout: float) -> Measured:
    """Send the rows as a CSV, wait until all have ended, and read the output."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    started = time.monotonic()
    files = {"file": ("bench.csv", text.getvalue().encode())}
    fields = {"model": model, "cache": "no"}
    bulk = stack.http.post("/api/v1/bulk", files=files, data=fields, timeout=timeout).json()
    uploaded = time.monotonic()
    url = f"/api/v1/bulk/{bulk['id']}"
    until(lambda: stack.http.get(url).json()["state"] == "completed", timeout)
    ended = time.monotonic()
    with stack.http.stream("GET", f"{url}/output", timeout=timeout) as answer:
        answers = list(csv.DictReader(_lines(answer.iter_text())))
    return Measured(
        rows=len(answers),
        succeeded=sum(row["state"] == "succeeded" for row in answers),
        in_order=[row["prompt"] for row in answers] == [row["prompt"] for row in rows],
        tokens=sum(int(row["completion_tokens"] or 0) for row in answers),
        upload_seconds=uploaded - started,
        run_seconds=ended - started,
        download_seconds=time.monotonic() - ended,
    )


def _lines(pieces: Iterator[str]) -> Iterator[str]:
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + piece).splitlines(keepends=True) or [""]
        yield from lines
    yield rest


@contextmanager
def peak_memory(stack: Stack) -> Iterator[dict[str, float]]:
    """The most resident memory of each role while the block runs, in MB, by role."""
    peaks: dict[str, float] = {}
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.2):
            for role, megabytes in _resident(stack):
                peaks[role] = max(peaks.get(role, 0.0), megabytes)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peaks
    finally:
        done.set()
        sampler.join()


def _resident(stack: Stack) -> Iterator[tuple[str, float]]:
    marker = f"NEXUS_DATA_DIR={stack.data_dir}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marker not in (process / "environ").read_bytes():
                continue
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            pages = int((process / "statm").read_text().split()[1])
        except OSError:  # it has just ended
            continue
        role = next((r for r in ("scheduler", "valkey", "api", "up") if f"\0{r}" in command), None)
        yield role or "worker", pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def batching(make_stack: Callable[[list[dict[str, Any]]], Stack]) -> dict[str, Any]:
    """The default settings against one by one, on the same file."""
    (shipped,) = (m for m in load_models(load_settings().models_file) if m.name == MODEL)
    settings = shipped.model_dump(mode="json", exclude_unset=True) | {"path": MODEL}
    stack = make_stack(
        [settings | {"name": "batched"}, settings | {"name": "alone", "max_batch_size": 1}]
    )
    rows = [{"prompt": text, "max_tokens": most} for text, most in varied_prompts(200)]
    for name in ("batched", "alone"):
        run_bulk(stack, name, rows[:4], timeout=120)
    batched = run_bulk(stack, "batched", rows, timeout=600)
    alone = run_bulk(stack, "alone", rows, timeout=1200)
    stack.stop()
    return {
        "batched": asdict(batched) | {"tokens_per_second": batched.tokens_per_second},
        "alone": asdict(alone) | {"tokens_per_second": alone.tokens_per_second},
        "ratio": batched.tokens_per_second / alone.tokens_per_second,
    }


def memory(make_stack: Callable[[list[dict[str, Any]]], Stack], rows: int) -> dict[str, Any]:
    """A bulk of many rows on the simulated engine, and the memory of every process."""
    stack = make_stack([{"name": "simulated", "type": "simulated", "max_batch_size": 64}])
    text = [{"prompt": f"row {index} of the file", "max_tokens": 8} for index in range(rows)]
    with peak_memory(stack) as peaks:
        measured = run_bulk(stack, "simulated", text, timeout=3600)
    stack.stop()
    return asdict(measured) | {"peak_mb": dict(sorted(peaks.items()))}


def show(results: dict[str, Any]) -> None:
    """The figures as a table."""
    table = Table("what", "figure", title="Nexus Jobs")
    if "batching" in results:
        found = results["batching"]
        for name in ("batched", "alone"):
            run = found[name]
            rate = f"{run['tokens_per_second']:.0f} tokens/s"
            table.add_row(
                f"{name}: {run['succeeded']} of {run['rows']} rows, in order: {run['in_order']}",
                f"{rate}, {run['run_seconds']:.1f} s",
            )
        table.add_row("batched : one by one", f"{found['ratio']:.1f}")
    if "memory" in results:
        found = results["memory"]
        table.add_row(
            f"{found['succeeded']} of {found['rows']} simulated, in order: {found['in_order']}",
            f"in {found['upload_seconds']:.1f} s, all done {found['run_seconds']:.1f} s, "
            f"out {found['download_seconds']:.1f} s",
        )
        for role, megabytes in found["peak_mb"].items():
            table.add_row(f"peak memory of {role}", f"{megabytes:.0f} MB")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["batching", "memory"])
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the memory bench")
    arguments = parser.parse_args()
    models_dir = load_settings().models_dir
    pull(MODEL, models_dir=models_dir)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:

        def make_stack(models: list[dict[str, Any]]) -> Stack:
            home = Path(tempfile.mkdtemp(dir=folder))
            stack = Stack(home, models, models_dir)
            stack.start()
            return stack

        if "batching" in arguments.what:
            results["batching"] = batching(make_stack)
        if "memory" in arguments.what:
            results["memory"] = memory(make_stack, arguments.rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench.json").write_text(json.dumps(results, indent=2) + "\n")
    show(results)


if __name__ == "__main__":
    main()
