"""A large file in and out, and the most memory that each process took meanwhile."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from loadtests.processes import peak_memory
from loadtests.report import Tables
from loadtests.stacks import running
from tests.e2e.stack import Stack

MODEL: Final = {"name": "simulated", "type": "simulated", "max_batch_size": 64}
ROWS: Final = 100_000
RATES: Final = "One CSV on the simulated engine"
MEMORY: Final = "Peak memory meanwhile"


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of one file; `run_seconds` are from the upload's start until the last row ended."""

    rows: int
    right: int
    tokens: int
    upload_seconds: float
    run_seconds: float
    download_seconds: float


def measure(*, quick: bool) -> Tables:
    """Every row is on the disk before the 202, and every row of the output is checked."""
    count = 2_000 if quick else ROWS
    rows = [{"prompt": f"row {index} of the file", "max_tokens": 8} for index in range(count)]
    with running([MODEL]) as stack, peak_memory(stack.pid) as peaks:
        found = run_bulk(stack, "simulated", rows)
    rates = {
        "rows": found.rows,
        "right": found.right,
        "in, rows/s": count / found.upload_seconds,
        "ended, rows/s": count / found.run_seconds,
        "out, rows/s": count / found.download_seconds,
    }
    memory = [{"process": role, "peak MB": peak} for role, peak in sorted(peaks.items())]
    return {RATES: [rates], MEMORY: memory}


def run_bulk(stack: Stack, model: str, rows: Sequence[Mapping[str, Any]]) -> Measured:
    """Send the rows as a CSV, wait until all have ended, and read the output."""
    started = time.time()
    fields = {"model": model, "cache": "no"}
    files = {"file": ("bench.csv", _csv(rows))}
    answer = stack.http.post("/api/v1/bulk", files=files, data=fields, timeout=600)
    bulk = answer.raise_for_status().json()
    uploaded = time.time()
    while (status := _status(stack, bulk["id"]))["state"] != "completed":
        time.sleep(0.5)  # to look takes processor time from what is measured
    downloading = time.time()
    with stack.http.stream("GET", f"/api/v1/bulk/{bulk['id']}/output", timeout=600) as output:
        answers = list(csv.DictReader(_lines(output.iter_text())))
    return Measured(
        rows=len(answers),
        right=sum(map(_is_right, rows, answers)),
        tokens=sum(int(row["completion_tokens"] or 0) for row in answers),
        upload_seconds=uploaded - started,
        run_seconds=datetime.fromisoformat(status["finished_at"]).timestamp() - started,
        download_seconds=time.time() - downloading,
    )


def _is_right(sent: Mapping[str, Any], answer: Mapping[str, str]) -> bool:
    """Whether it answers this prompt with at most, or if eos is ignored just, the tokens asked."""
    tokens, most = int(answer["completion_tokens"] or 0), int(sent["max_tokens"])
    enough = tokens == most if sent.get("ignore_eos") else 0 < tokens <= most
    return answer["prompt"] == sent["prompt"] and answer["state"] == "succeeded" and enough


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _status(stack: Stack, bulk_id: str) -> dict[str, Any]:
    status: dict[str, Any] = stack.http.get(f"/api/v1/bulk/{bulk_id}").raise_for_status().json()
    return status


def _lines(pieces: Iterator[str]) -> Iterator[str]:
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + piece).splitlines(keepends=True) or [""]
        yield from lines
    yield rest
