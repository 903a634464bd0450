"""What clients do: each talk submits some prompts and asks what became of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from nexus_jobs.chaos.client import Client
from nexus_jobs.chaos.history import prompt_of

Talk = Callable[[Client, Sequence[int]], None]

QUICK, SLOW = "quick", "slow"
MODELS: Final = (
    {"name": QUICK, "type": "simulated", "max_batch_size": 32, "simulated": {"step_ms": 5}},
    {"name": SLOW, "type": "simulated", "max_batch_size": 32, "simulated": {"step_ms": 50}},
)
"""A job of the first takes some ten milliseconds; one of the second is at work for seconds."""

_WAIT_SECONDS: Final = 2
_PREFER: Final = {"Prefer": f"wait={_WAIT_SECONDS}"}
_FILE_ROWS: Final = 20
_BATCH_ROWS: Final = 10


def _body(number: int, **more: Any) -> dict[str, Any]:
    """Every twentieth job is a slow one."""
    slow = number % 20 == 7
    prompt = prompt_of(number, 30 if slow else 1 + number % 12)
    return {"model": SLOW if slow else QUICK, "prompt": prompt, "priority": number % 10, **more}


def _submit(client: Client, number: int, key: str = "", **more: Any) -> str | None:
    """The id of a new job, if it was accepted."""
    headers = {"Idempotency-Key": key} if key else {}
    job = client.submit("jobs", [number], json=_body(number, **more), headers=headers)
    return None if job is None else str(job["id"])


def _generate(client: Client, numbers: Sequence[int]) -> None:
    """Submit and wait in one call."""
    client.submit("generate", numbers, json=_body(numbers[0]), headers=_PREFER)


def _follow(client: Client, numbers: Sequence[int]) -> None:
    """Submit, then wait for the end, and ask once more after it."""
    job_id = _submit(client, numbers[0])
    if job_id is not None:
        for _ in range(3):
            client.ask("GET", job_id, params={"wait": _WAIT_SECONDS / 2})


def _forget(client: Client, numbers: Sequence[int]) -> None:
    _submit(client, numbers[0])


def _again(client: Client, numbers: Sequence[int]) -> None:
    """The same prompt a second time, which a cache may answer."""
    for _ in range(2):
        job_id = _submit(client, numbers[0])
        if job_id is not None:
            client.ask("GET", job_id, params={"wait": _WAIT_SECONDS})


def _once(client: Client, numbers: Sequence[int]) -> None:
    """Submit under a key until it is accepted, and then again as if the answer had been lost."""
    client.history.keyed(numbers[0])
    key = f"prompt {numbers[0]}"
    if _submit(client, numbers[0], key) is not None:
        _submit(client, numbers[0], key)


def _expire(client: Client, numbers: Sequence[int]) -> None:
    client.history.expiring(numbers[0])
    job_id = _submit(client, numbers[0], expires_in=1.0)
    if job_id is not None:
        client.ask("GET", job_id, params={"wait": _WAIT_SECONDS})


def _cancel(client: Client, numbers: Sequence[int]) -> None:
    """Cancel at some moment of its short life, then ask what became of it."""
    job_id = _submit(client, numbers[0])
    if job_id is not None:
        client.stopped.wait(numbers[0] % 7 / 50)
        client.history.cancelling(job_id)
        client.ask("DELETE", job_id)
        client.ask("GET", job_id)


def _batch(client: Client, numbers: Sequence[int]) -> None:
    body = {"model": QUICK, "prompts": [_body(number)["prompt"] for number in numbers]}
    client.submit("generate/batch", numbers, json=body, headers=_PREFER)


def _file(client: Client, numbers: Sequence[int]) -> None:
    lines = ["prompt", *(_body(number)["prompt"] for number in numbers)]
    files = {"file": ("prompts.csv", "\n".join(lines).encode())}
    client.submit("bulk", numbers, data={"model": QUICK}, files=files)


TALKS: Final[Sequence[tuple[Talk, int, float]]] = (
    (_generate, 1, 4.0),
    (_follow, 1, 3.0),
    (_forget, 1, 3.0),
    (_again, 1, 1.0),
    (_once, 1, 2.0),
    (_expire, 1, 1.0),
    (_cancel, 1, 1.5),
    (_batch, _BATCH_ROWS, 0.6),
    (_file, _FILE_ROWS, 0.2),
)
"""Each with the number of jobs that it submits, and how often it comes beside the others."""
