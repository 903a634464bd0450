"""Metric names and the set-up of logs. No log line ever holds a prompt or an answer."""

from __future__ import annotations

import logging
import os
import sys

import structlog
from prometheus_client import Counter, Histogram, start_http_server

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

jobs_submitted = Counter("nexus_jobs_submitted_total", "Jobs accepted.", ["model"])
jobs_ended = Counter("nexus_jobs_ended_total", "Jobs that ended, by state.", ["model", "state"])
route_choices = Counter(
    "nexus_route_choices_total", "Requests that a route gave to a model.", ["route", "model"]
)
cache_hits = Counter("nexus_cache_hits_total", "Requests answered by a cache.", ["level"])
cache_misses = Counter("nexus_cache_misses_total", "Deterministic requests that no cache knew.")
tickets_lost = Counter("nexus_tickets_unsent_total", "Jobs whose ticket could not be sent.")
consumer_stalls = Counter(
    "nexus_consumer_stalls_total", "Times a worker stopped taking tickets and was made to again."
)
leases_lost = Counter(
    "nexus_leases_lost_total", "Outcomes refused because the lease was held no longer.", ["model"]
)
prompt_tokens = Counter("nexus_prompt_tokens_total", "Prompt tokens processed.", ["model"])
generation_tokens = Counter("nexus_generation_tokens_total", "Tokens generated.", ["model"])
step_seconds = Histogram(
    "nexus_step_seconds", "Time of one batch step.", ["model"], buckets=SECONDS
)
batch_rows = Histogram(
    "nexus_batch_rows",
    "Rows in the batch at a step.",
    ["model"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
queue_seconds = Histogram(
    "nexus_request_queue_seconds", "From submission to start.", ["model"], buckets=SECONDS
)


def wants_colour() -> bool:
    """Whether a terminal may be sent colours: NO_COLOR and a dumb one forbid it."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def configure_logging(level: int = logging.INFO) -> None:
    """Human-readable lines in a terminal (or with FORCE_COLOR), JSON elsewhere; on stderr.

    What libraries log, from warnings on, looks the same.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor
    if sys.stderr.isatty() or os.environ.get("FORCE_COLOR"):
        # The default traceback shows local variables, and those hold prompts.
        renderer = structlog.dev.ConsoleRenderer(
            colors=wants_colour(), exception_formatter=structlog.dev.plain_traceback
        )
    else:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    libraries = logging.StreamHandler(sys.stderr)
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[remove_meta, renderer]
        )
    )
    logging.basicConfig(handlers=[libraries], level=logging.WARNING, force=True)


def serve_metrics(port: int) -> None:
    """Serve this process's metrics on 127.0.0.1 at `port` or the next free one; 0: not at all."""
    for candidate in range(port, min(port + 100, 65536) if port else 0):
        try:
            start_http_server(candidate, addr="127.0.0.1")
        except OSError:  # another worker of this host has it
            continue
        structlog.get_logger(__name__).info("metrics.served", port=candidate)
        return
    if port:
        structlog.get_logger(__name__).warning("metrics.unserved", port=port)
