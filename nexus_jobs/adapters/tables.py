"""The tables. Times are seconds since the epoch on the database's clock; ids sort by time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    false,
    literal_column,
    text,
)

from nexus_jobs.states import State

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

Id = Text().with_variant(Text(collation="C"), "postgresql")
"""Compared by bytes, as Python does, so that pages of ids follow on one another everywhere."""

Json = JSON(none_as_null=True)


def storable(prose: str | None) -> str | None:
    """The text without what a database cannot hold (NUL, a lone surrogate)."""
    if prose is None:
        return None
    return prose.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


class Prose(TypeDecorator[str]):
    """Text that a model or a stranger wrote.

    It is made storable: one bad answer must not undo the transaction that it shares with others.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        return storable(value)


jobs = Table(
    "jobs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("model", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("prompt", Prose),
    Column("messages", Json),
    Column("params", Json, nullable=False),
    Column("metadata", Json),
    Column("use_cache", Boolean, nullable=False),
    Column("reproducible", Boolean, nullable=False),
    Column("fingerprint", Text),
    Column("submitted_at", Double, nullable=False),
    Column("due_at", Double, nullable=False),
    Column("expires_in", Double),
    Column("expires_at", Double),
    Column("run_after", Double),
    Column("suspect", Boolean, nullable=False, server_default=false()),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("attempt", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("lease_token", Text),
    Column("lease_expires_at", Double),
    Column("worker", Text),
    Column("bulk_id", Id, ForeignKey("bulks.id")),
    Column("bulk_index", Integer),
    Column("cells", Json),
    Column("route", Text),
    Column("shadow_of", Id),
    Column("cached", Text, nullable=False),
    Column("error_code", Text),
    Column("error_message", Prose),
    Column("error_trace", Prose),
)

results = Table(
    "results",
    metadata,
    Column("job_id", Id, ForeignKey("jobs.id"), primary_key=True),
    Column("text", Prose, nullable=False),
    Column("finish_reason", Text, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("prefill_ms", Double, nullable=False),
    Column("decode_ms", Double, nullable=False),
    Column("fingerprint", Text, comment="only where the job computed it, not for copies"),
    Column("created_at", Double, nullable=False),
)

bulks = Table(
    "bulks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("model", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("columns", Json, nullable=False),
    Column("total", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("submitted_at", Double, nullable=False),
    Column("touched_at", Double, nullable=False, comment="when rows were last added"),
    Column(
        "ending",
        Boolean,
        nullable=False,
        server_default=false(),
        comment="given up, and rows of it may still have to be cancelled",
    ),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("key", Id, primary_key=True),
    Column("digest", Text, nullable=False),
    # looked at when the transaction ends, since a key is kept before its job is inserted
    Column(
        "job_id",
        Id,
        ForeignKey("jobs.id", deferrable=True, initially="DEFERRED"),
        nullable=False,
    ),
    Column("expires_at", Double, nullable=False),
    Index("ix_idempotency_keys_expiry", "expires_at"),
)

models = Table(
    "models",
    metadata,
    Column("name", Id, primary_key=True),
    Column("position", Integer, nullable=False, comment="its place in the models file"),
    Column("config", Json, nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("origin", Text, nullable=False, server_default="file"),
    Column("wanted", Text, nullable=False, server_default="auto"),
    Column("registered_at", Double, nullable=False, server_default="0"),
    Column("measured", Json),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("name", Id, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("config", Json, nullable=False),
    Column("registered_at", Double, nullable=False),
)

routes = Table(
    "routes",
    metadata,
    Column("name", Id, primary_key=True),
    Column("config", Json, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Id, primary_key=True),
    Column("pid", Integer, nullable=False),
    Column("report", Text, nullable=False),
    Column("seen_at", Double, nullable=False),
)

leaders = Table(
    "leaders",
    metadata,
    Column("role", Id, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("expires_at", Double, nullable=False),
)

assignments = Table(
    "assignments",
    metadata,
    Column("worker", Id, primary_key=True),
    Column("model", Id, primary_key=True),
    Column("since", Double, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", Double, nullable=False),
    Column("action", Text, nullable=False),
    Column("model", Id, nullable=False),
    Column("worker", Id, nullable=False),
    Column("reason", Text, nullable=False),
)

recommendations = Table(
    "recommendations",
    metadata,
    Column("model", Id, primary_key=True),
    Column("replicas", Integer, nullable=False),
    Column("reason", Text, nullable=False),
)


def is_state(states: Iterable[State]) -> ColumnElement[bool]:
    """The job is in one of these states; written as literals, or no partial index would serve."""
    literals: list[ColumnElement[str]] = [literal_column(f"'{state}'") for state in sorted(states)]
    if len(literals) == 1:
        return jobs.c.state == literals[0]
    return jobs.c.state.in_(literals)


def _partial(name: str, *columns: Column[Any], where: str, unique: bool = False) -> Index:
    condition = text(where)
    return Index(name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


_partial(
    "ix_jobs_queue",
    jobs.c.model,
    jobs.c.suspect,
    jobs.c.due_at,
    jobs.c.id,
    where="state = 'queued'",
)
_partial(
    "ix_jobs_routed",
    jobs.c.route,
    jobs.c.model,
    jobs.c.id,
    where="state = 'queued' AND route IS NOT NULL",
)
_partial("ix_jobs_leases", jobs.c.lease_expires_at, where="state = 'running'")
_partial(
    "ix_jobs_expiry",
    jobs.c.expires_at,
    where="state = 'queued' AND expires_at IS NOT NULL",
)
_partial(
    "uq_jobs_bulk_row",
    jobs.c.bulk_id,
    jobs.c.bulk_index,
    where="bulk_id IS NOT NULL",
    unique=True,
)
# started_at makes it answer all of a bulk's progress by itself
_partial(
    "ix_jobs_bulk_progress",
    jobs.c.bulk_id,
    jobs.c.state,
    jobs.c.finished_at,
    jobs.c.started_at,
    where="bulk_id IS NOT NULL",
)
_partial(
    "ix_results_fingerprint",
    results.c.fingerprint,
    results.c.created_at,
    where="fingerprint IS NOT NULL",
)
