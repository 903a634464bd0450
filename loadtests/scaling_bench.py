"""How much more many workers do than one, where a step takes the time that a device would take."""

from __future__ import annotations

from typing import Final

from loadtests.bulk_bench import run_bulk
from loadtests.report import Row, Tables
from loadtests.stacks import running

SLOTS: Final = 16
TOKENS: Final = 32
STEP_MS: Final = 20
WORKERS: Final = f"Workers with {SLOTS} slots and steps of {STEP_MS} ms"
MODEL: Final = {
    "name": "simulated",
    "type": "simulated",
    "max_batch_size": SLOTS,
    "simulated": {"step_ms": STEP_MS},
}


def measure(*, quick: bool) -> Tables:
    """Each number of workers gets work for the same time."""
    rows: list[Row] = []
    for workers in (1, 2) if quick else (1, 2, 4, 8):
        rate = _rate(workers, waves=2 if quick else 20)
        single = rows[0]["tokens/s"] if rows else rate
        most = workers * SLOTS * 1000 / STEP_MS
        rows.append(
            {
                "workers": workers,
                "tokens/s": rate,
                "times one": rate / single,
                "of what the steps allow": rate / most,
            }
        )
    return {WORKERS: rows}


def _rate(workers: int, waves: int) -> float:
    """Tokens a second of work that fills every slot of every worker `waves` times."""
    row = {"max_tokens": TOKENS, "ignore_eos": "true"}
    count = workers * SLOTS
    with running([MODEL], workers=workers) as stack:
        run_bulk(stack, "simulated", [row | {"prompt": f"warm {i}"} for i in range(count)])
        work = [row | {"prompt": f"row {i} of the file"} for i in range(count * waves)]
        found = run_bulk(stack, "simulated", work)
    if found.right < len(work):
        raise RuntimeError(f"{len(work) - found.right} of {len(work)} rows are wrong")
    return found.tokens / found.run_seconds
