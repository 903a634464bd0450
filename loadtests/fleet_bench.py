"""A load that moves from model to model, on workers that follow it and on workers that stay.

    python -m loadtests.fleet_bench [--quick]

Three models on two workers of one thread each, with room for two models on a worker. In each phase
one model gets more than one worker can do and the others little. The same trace runs twice: with
the scheduler free to move, and with each model pinned to its place. Beside the waits it measures
how far the start that is foretold to a queued job is from the one that it gets.
"""

from __future__ import annotations

import argparse
import heapq
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from statistics import mean, median, quantiles
from typing import Any, Final

from loadtests.report import Row, Tables, keep, show
from loadtests.stacks import running
from tests.e2e.stack import Stack

TOKENS: Final = 32
ROOM: Final = {"NEXUS_WORKER__MAX_MODELS": "2", "NEXUS_WORKER__THREADS": "1"}
REAL: Final[Sequence[Mapping[str, Any]]] = (
    {"name": "onnx", "type": "onnx", "path": "smollm2-135m", "max_batch_size": 8},
    {"name": "torch", "type": "huggingface", "path": "smollm2-135m", "max_batch_size": 8},
    {"name": "simulated", "type": "simulated", "max_batch_size": 8, "simulated": {"step_ms": 40}},
)
SIMULATED: Final[Sequence[Mapping[str, Any]]] = tuple(
    {**REAL[2], "name": str(model["name"])} for model in REAL
)
PLACES: Final = {"onnx": ["w1"], "torch": ["w2"], "simulated": ["w1", "w2"]}
RUSHES: Final = {"onnx": 5.0, "torch": 2.5, "simulated": 8.0}
"""Jobs a second of a model in its phase; a worker does about two thirds of it."""
CALM: Final = 0.2
ESTIMATED: Final = 0.1
"""The share of jobs that are asked, a second after their submission, when they will start."""


@dataclass(frozen=True, slots=True)
class Arrival:
    at: float
    """Seconds from the start of the trace."""
    model: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Foretold:
    """Seconds from the moment of asking to the start."""

    foretold: float | None
    job_id: str
    asked_at: float


def measure(*, quick: bool) -> Tables:
    """One row for each way, and one for what is foretold."""
    models, seconds = (SIMULATED, 10.0) if quick else (REAL, 90.0)
    trace = list(arrivals(seconds, seed=7))
    pinned = [
        {**model, "pinned_to": PLACES[model["name"]], "max_workers": len(PLACES[model["name"]])}
        for model in models
    ]
    rows: list[Row] = []
    foretold: list[Row] = []
    for name, offered in (("moved by the scheduler", models), ("static", pinned)):
        with running(offered, workers=2, env=ROOM) as stack:
            waits, errors, moves = run(stack, trace)
        rows.append({"workers": name, **waits, "moves": moves})
        foretold.append({"workers": name, **errors})
    first, second = rows
    ratio = second["p95 wait s"] / first["p95 wait s"]
    return {
        f"A load that moves, {len(trace)} jobs": [{**first, "static p95 / this": ratio}, second],
        "Foretold start": foretold,
    }


def arrivals(seconds: float, seed: int) -> Iterator[Arrival]:
    """Poisson arrivals: each model has its rush of so many seconds, one after the other."""
    chance = random.Random(seed)
    streams = []
    for place, (model, rush) in enumerate(RUSHES.items()):
        streams.append(_stream(chance, model, place, rush, seconds))
    yield from heapq.merge(*streams, key=lambda arrival: arrival.at)


def _stream(
    chance: random.Random, model: str, place: int, rush: float, seconds: float
) -> list[Arrival]:
    found: list[Arrival] = []
    for phase in range(len(RUSHES)):
        at, end = phase * seconds, (phase + 1) * seconds
        rate = rush if phase == place else CALM
        while (at := at + chance.expovariate(rate)) < end:
            found.append(Arrival(at, model, f"Tell me fact {len(found)} about {model}."))
    return found


def run(stack: Stack, trace: Sequence[Arrival]) -> tuple[Row, Row, int]:
    """Offer the trace; the waits, the errors of what was foretold, and the moves made.

    Raises:
        RuntimeError: a job did not succeed.
    """
    for model in RUSHES:  # whose first load is not what is measured
        stack.http.post("/api/v1/generate", json=_body(model, "warm"))
    before = len(_decisions(stack))
    with ThreadPoolExecutor(64) as pool:
        began = time.monotonic()
        told = [pool.submit(_offer, stack, began, number, one) for number, one in enumerate(trace)]
        answers = [one.result() for one in told]
    ended = [_ended(stack, job_id) for job_id, _ in answers]
    moves = len(_decisions(stack)) - before
    if failed := [job for job in ended if job["state"] != "succeeded"]:
        raise RuntimeError(f"{len(failed)} of {len(ended)} jobs did not succeed: {failed[0]}")
    starts = {job["id"]: _seconds(job["started_at"]) for job in ended}
    waits = [starts[job["id"]] - _seconds(job["submitted_at"]) for job in ended]
    return _waits(waits), _errors([f for _, f in answers if f], starts), moves


def _body(model: str, prompt: str) -> dict[str, Any]:
    fields = {"max_tokens": TOKENS, "ignore_eos": True, "cache": "no"}
    return {"model": model, "prompt": prompt, **fields}


def _offer(
    stack: Stack, began: float, number: int, arrival: Arrival
) -> tuple[str, Foretold | None]:
    time.sleep(max(0.0, began + arrival.at - time.monotonic()))
    answer = stack.http.post("/api/v1/jobs", json=_body(arrival.model, arrival.prompt))
    answer.raise_for_status()
    job_id = answer.json()["id"]
    if number % round(1 / ESTIMATED):
        return job_id, None
    time.sleep(1.0)
    asked_at = time.time()
    waiting = stack.http.get(f"/api/v1/jobs/{job_id}").json()["waiting"]
    if waiting is None:
        return job_id, None
    return job_id, Foretold(waiting["estimated_start_seconds"], job_id, asked_at)


def _ended(stack: Stack, job_id: str) -> dict[str, Any]:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        job: dict[str, Any] = stack.http.get(f"/api/v1/jobs/{job_id}?wait=30").json()
        if job["state"] not in ("queued", "running"):
            return job
    raise RuntimeError(f"job {job_id} has not ended after 300 s")


def _decisions(stack: Stack) -> list[Any]:
    found: list[Any] = stack.http.get("/api/v1/assignments").json()["decisions"]
    return found


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def _waits(waits: Sequence[float]) -> Row:
    cuts = quantiles(waits, n=100)
    return {
        "mean wait s": mean(waits),
        "p50 wait s": cuts[49],
        "p95 wait s": cuts[94],
        "p99 wait s": cuts[98],
    }


def _errors(told: Sequence[Foretold], starts: Mapping[str, float]) -> Row:
    """How far what was foretold was off, for the jobs that were still queued when asked."""
    real = [(one.foretold, starts[one.job_id] - one.asked_at) for one in told]
    pairs = [(foretold, start) for foretold, start in real if foretold is not None]
    row = {"asked": len(told), "told": len(pairs)}
    if not pairs:
        return row
    off = [abs(foretold - start) for foretold, start in pairs]
    return {
        **row,
        "median start s": median(start for _, start in pairs),
        "median error s": median(off),
        "error / start": sum(off) / max(sum(start for _, start in pairs), 1e-9),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="seconds each: checks the bench only")
    quick = parser.parse_args().quick
    tables = measure(quick=quick)
    show(tables)
    print(f"in {keep('fleet', tables, quick=quick)}")


if __name__ == "__main__":
    main()
