"""What a worker still holds after it has loaded and unloaded a model again and again.

    python -m loadtests.loads_bench [--quick]

A model is loaded and warmed up over the HTTP API, and unloaded when it is ready. The memory is that
of the worker and of the processes that it started, when no model is loaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any, Final

import psutil

from loadtests.report import Row, Tables, keep, show
from loadtests.stacks import running
from tests.e2e.stack import Stack, until

MIB: Final = 2**20
REAL: Final = ("openvino", "onnx", "huggingface")
ROUNDS: Final = 50
LOOKS: Final = (1, 2, 10, 20, 30, 40, 50)
"""After which rounds to look."""


def measure(*, quick: bool) -> Tables:
    """A row for each engine and look."""
    kinds, rounds = (("simulated",), 2) if quick else (REAL, ROUNDS)
    return {
        f"Loaded and unloaded {rounds} times": [
            row for kind in kinds for row in _rows(kind, rounds)
        ]
    }


def _rows(kind: str, rounds: int) -> Iterator[Row]:
    """Each engine has a worker of its own."""
    model: Mapping[str, Any] = {
        "name": "model",
        "type": kind,
        "path": "smollm2-135m",
        "max_batch_size": 8,
    }
    with running([model]) as stack:
        _order(stack, "unload", "unloaded")
        (report,) = stack.http.get("/api/v1/workers").json()["data"]
        worker = psutil.Process(report["pid"])
        for number in range(1, rounds + 1):
            _order(stack, "load", "ready")
            _order(stack, "unload", "unloaded")
            if number in LOOKS:
                row = {"engine": kind, "after": number, **_held(worker)}
                print(row, flush=True)
                yield row


def _order(stack: Stack, what: str, becomes: str) -> None:
    stack.http.post(f"/api/v1/models/model/{what}").raise_for_status()

    def has_become() -> bool:
        model = _model(stack)
        placed = bool(model["placements"])
        return model["state"] == becomes and placed == (becomes == "ready")

    until(has_become, timeout=120)


def _model(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = stack.http.get("/api/v1/models/model").json()
    return found


def _held(worker: psutil.Process) -> Row:
    family = [worker, *worker.children(recursive=True)]
    return {
        "memory MiB": sum(process.memory_info().rss for process in family) / MIB,
        "threads": sum(process.num_threads() for process in family),
        "open files": sum(process.num_fds() for process in family),
        "processes": len(family),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="seconds: checks the bench only")
    quick = parser.parse_args().quick
    tables = measure(quick=quick)
    show(tables)
    print(f"in {keep('loads', tables, quick=quick)}")


if __name__ == "__main__":
    main()
