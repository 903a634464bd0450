"""A load for your own cluster: people who wait, people who come back for it, and files.

    pip install 'nexus-jobs[bench]'
    locust -f loadtests/locustfile.py --host http://your-cluster:8080       # page on port 8089
    locust -f loadtests/locustfile.py --host … --headless --users 32 --spawn-rate 8 --run-time 60s

`--model NAME` chooses the model, `--max-tokens N` the length of the answers; name a class
(`… Waiting`) to run only that kind of user. An answer that is not one counts as a failure.
"""

from __future__ import annotations

import csv
import io
import secrets
import time
from argparse import Namespace
from typing import Any, Final

from locust import HttpUser, between, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.clients import ResponseContextManager

FILE_ROWS: Final = 200
LOOK_SECONDS: Final = 30


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--model", default="simulated", help="The model to ask")
    parser.add_argument("--max-tokens", type=int, default=32, help="The longest answer, in tokens")


class Person(HttpUser):
    """Somebody who asks what nobody has asked before, so that no cache answers."""

    abstract = True

    def body(self, **more: Any) -> dict[str, Any]:
        options: Namespace = self.environment.parsed_options
        return {"model": options.model, "max_tokens": options.max_tokens, "cache": "no", **more}

    def prompt(self) -> str:
        return f"Tell me something about the number {secrets.randbits(40)}."


class Waiting(Person):
    """Waits for each answer."""

    weight = 4
    wait_time = constant(0)

    @task
    def generate(self) -> None:
        body = self.body(prompt=self.prompt())
        with self.client.post("/api/v1/generate", json=body, catch_response=True) as answer:
            _expect_state(answer, "succeeded")


class ComingBack(Person):
    """Submits a job, and asks until it has ended."""

    weight = 4
    wait_time = constant(0)

    @task
    def submit_and_look(self) -> None:
        accepted = self.client.post("/api/v1/jobs", json=self.body(prompt=self.prompt()))
        if accepted.status_code != 202:
            return
        url = accepted.headers["Location"]
        with self.client.get(
            url, params={"wait": LOOK_SECONDS}, name="/api/v1/jobs/{id}", catch_response=True
        ) as answer:
            _expect_state(answer, "succeeded")


class Files(Person):
    """Sends a file, waits until all of it has been answered, and fetches the answers."""

    weight = 1
    wait_time = between(1, 5)

    @task
    def one_file(self) -> None:
        fields = {key: str(value) for key, value in self.body().items()}
        files = {"file": ("load.csv", self._csv())}
        accepted = self.client.post("/api/v1/bulk", data=fields, files=files)
        if accepted.status_code != 202:
            return
        url = f"/api/v1/bulk/{accepted.json()['id']}"
        while not self._has_ended(url):
            time.sleep(1)  # locust makes this leave the processor to other users
        with self.client.get(
            f"{url}/output", name="/api/v1/bulk/{id}/output", catch_response=True
        ) as answer:
            states = [row["state"] for row in csv.DictReader(io.StringIO(answer.text))]
            if states != ["succeeded"] * FILE_ROWS:
                answer.failure(f"{states.count('succeeded')} of {FILE_ROWS} rows succeeded")

    def _csv(self) -> str:
        return "prompt\n" + "".join(f"{self.prompt()}\n" for _ in range(FILE_ROWS))

    def _has_ended(self, url: str) -> bool:
        bulk = self.client.get(url, name="/api/v1/bulk/{id}").json()
        return bulk["state"] in ("completed", "cancelled")


def _expect_state(answer: ResponseContextManager, state: str) -> None:
    if answer.status_code != 200 or answer.json()["state"] != state:
        answer.failure(f"{answer.status_code}: the job has not {state}")
