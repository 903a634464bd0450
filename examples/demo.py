"""The whole platform in one go: start it, run a file of prompts through it, show some answers."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from nexus_jobs.client import Client, ServerUnreachable
from nexus_jobs.supervisor import die_with_parent

MODEL = "smollm2-135m"
PROMPTS = Path(__file__).with_name("prompts.csv")
FOLDER = Path(".nexus/demo")
ANSWERS = FOLDER / "answers.csv"
LOG = FOLDER / "up.log"
START_SECONDS = 120.0
STOP_SECONDS = 60.0
SHOWN = 3


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    port, queue_port = free_port(8080), free_port(6390)
    url = f"http://127.0.0.1:{port}"
    env = {name: value for name, value in os.environ.items() if not name.startswith("NEXUS_")} | {
        "NEXUS_DATA_DIR": str(FOLDER),
        "NEXUS_MODEL_ROOT": ".nexus/models",
        "NEXUS_SERVER__PORT": str(port),
        "NEXUS_QUEUE__EMBEDDED_PORT": str(queue_port),
        "NEXUS_CACHE__TTL_SECONDS": "0",  # each run computes its answers
    }
    say(f"1. Bring the model {MODEL}")
    nexus(env, "models", "pull", MODEL)
    say(f"2. Start the platform on {url} (its log: {LOG})")
    with platform(env) as process:
        wait_until_served(process, url)
        say(f"3. Run {PROMPTS.name} through it")
        nexus(env, "bulk", "submit", str(PROMPTS), "--model", MODEL,
              "--watch", "--output", str(ANSWERS), "--url", url)  # fmt: skip
        say("4. Stop the platform")
    show_answers()


def say(line: str) -> None:
    print(f"\n{line}", flush=True)


def nexus(env: Mapping[str, str], *arguments: str) -> None:
    """Run a command of `nexus`; its failure is ours."""
    command = [sys.executable, "-m", "nexus_jobs.cli", *arguments]
    outcome = subprocess.run(command, env=env)  # noqa: S603
    if outcome.returncode:
        sys.exit(f"nexus {' '.join(arguments)} failed; the platform's log is {LOG}")


@contextmanager
def platform(env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`nexus up` in the background, stopped at the end and with us."""
    command = [sys.executable, "-m", "nexus_jobs.cli", "up"]
    with LOG.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            command,
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches us only, and we stop it once
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=STOP_SECONDS)
        finally:
            process.kill()
    if process.returncode:
        sys.exit(f"the platform ended with code {process.returncode}; its log is {LOG}")


def wait_until_served(process: subprocess.Popen[bytes], url: str) -> None:
    """Wait until a worker has the model ready."""
    deadline = time.monotonic() + START_SECONDS
    with Client(url) as client:
        while not is_served(client):
            if process.poll() is not None or time.monotonic() > deadline:
                print(LOG.read_text(errors="replace")[-3000:], file=sys.stderr)
                sys.exit("the platform did not start")
            time.sleep(0.2)


def is_served(client: Client) -> bool:
    try:
        return any(m["name"] == MODEL and m["state"] == "ready" for m in client.models())
    except ServerUnreachable:
        return False


def free_port(wanted: int) -> int:
    """`wanted` if nobody has it, or any free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port")


def show_answers() -> None:
    with ANSWERS.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    print(f"\nAll {len(rows)} answers, with token counts, lie in {ANSWERS}")
    print(f"Here are {SHOWN} of them:")
    for row in rows[:SHOWN]:
        print(f"\n> {row['prompt']}\n{row['output'].strip()}")


if __name__ == "__main__":
    main()
