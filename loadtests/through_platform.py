"""Runs work on one model through the whole platform."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import orjson
from prometheus_client.parser import text_string_to_metric_families

from loadtests.bulk_bench import run_bulk
from loadtests.http_clients import Load, Request, drive
from loadtests.http_load import GENERATE, render_head
from loadtests.prompts import Work
from tests.e2e.stack import Stack


class Throughput(NamedTuple):
    """Tokens a second, and the share of the time in which the engine was stepping."""

    tokens_per_second: float
    stepping: float


class ThroughPlatform:
    """A model of a running platform.

    Every method raises RuntimeError if an answer has not just the tokens that were asked for.
    """

    def __init__(self, stack: Stack, model: str) -> None:
        self._stack = stack
        self._model = model

    def one_file(self, work: Sequence[Work]) -> Throughput:
        """All at once, as a CSV."""
        stepped = self._stepped()
        rows = [{"prompt": p, "max_tokens": tokens, "ignore_eos": "true"} for p, tokens in work]
        found = run_bulk(self._stack, self._model, rows)
        _check(found.right, len(work))
        return self._throughput(work, found.run_seconds, stepped)

    def with_clients(self, work: Sequence[Work], clients: int) -> Throughput:
        """Each client sends its next request when it has the answer to its last."""
        stepped = self._stepped()
        load = self._drive((self._request(one) for one in work), clients)
        return self._throughput(work, load.seconds, stepped)

    def arriving(self, work: Sequence[Work], dues: Sequence[float]) -> Load:
        """Requests that come at these seconds, whatever the platform is doing."""
        return self._drive(map(self._request, work, dues), len(work))

    def _drive(self, requests: Iterator[Request], clients: int) -> Load:
        load = drive(self._stack.url, requests, clients)
        _check(len(load.right), len(load.answers))
        return load

    def _request(self, work: Work, due: float | None = None) -> Request:
        document = {"model": self._model, "prompt": work.prompt, "max_tokens": work.tokens}
        body = orjson.dumps(document | {"ignore_eos": True, "cache": "no"})
        head = render_head(self._stack.url, GENERATE, len(body))
        return Request(head + body, b'"completion_tokens":%d' % work.tokens, due)

    def _throughput(self, work: Sequence[Work], seconds: float, stepped: float) -> Throughput:
        tokens = sum(one.tokens for one in work)
        return Throughput(tokens / seconds, (self._stepped() - stepped) / seconds)

    def _stepped(self) -> float:
        """Seconds that the engine has been stepping so far."""
        text = self._stack.http.get("/metrics").text
        samples = (s for family in text_string_to_metric_families(text) for s in family.samples)
        return sum(
            sample.value
            for sample in samples
            if sample.name == "nexus_step_seconds_sum" and sample.labels["model"] == self._model
        )


def _check(right: int, asked: int) -> None:
    if right != asked:
        raise RuntimeError(f"{asked - right} of {asked} answers are wrong")
