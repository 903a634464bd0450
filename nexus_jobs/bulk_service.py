"""What the API does with bulks: files of many jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import IO, Final, Literal

from nexus_jobs import bulk as files
from nexus_jobs import telemetry
from nexus_jobs.committing import Committer
from nexus_jobs.config import JobSettings
from nexus_jobs.counting import BulkCounts
from nexus_jobs.errors import Conflict, InvalidRequest, NotFound
from nexus_jobs.intake import Intake, new_id
from nexus_jobs.job import Bulk, BulkProgress, BulkState, Ended, Job, JobError, NewJob, Request
from nexus_jobs.ports import BulkStore, Channel, Signals
from nexus_jobs.states import TERMINAL, State
from nexus_jobs.submission import Generation, parse_text

CHUNK = 500
"""Rows committed together while a file is read."""
CANCELLED_ROWS = 1000
"""Rows cancelled together, which workers' heartbeats and, on SQLite, all writers wait for."""
BULK_PRIORITY = 8
HEAD_START = 0.001
"""Seconds by which every token that a row may generate brings it forward. A file's longest answers
start first, so that none of them is left running alone at the end (Graham 1969, longest
processing time first).
"""

Standing = Literal["importing", "queued", "running", "completed", "cancelled", "abandoned"]
"""The state of a bulk and of its rows, in one word."""

_NOT_ACCEPTED: Final[Mapping[BulkState, Standing]] = {
    BulkState.IMPORTING: "importing",
    BulkState.CANCELLED: "cancelled",
    BulkState.ABANDONED: "abandoned",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkStatus:
    """How a bulk stands.

    Rates are over the last ten seconds; `eta_seconds` is None while nothing has ended lately.
    """

    bulk: Bulk
    state: Standing
    counts: Mapping[State, int]
    rows_per_second: float
    tokens_per_second: float
    eta_seconds: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How each row of one file becomes a request."""

    model: str
    columns: Sequence[str]
    prompt_at: int
    defaults: Generation
    written: Mapping[str, str]
    """The defaults as the client wrote them."""

    def request(self, cells: Sequence[str]) -> Request:
        """The request of one row.

        Raises:
            InvalidRequest: the row has too many cells, or a cell that overrides a default is wrong.
        """
        if len(cells) > len(self.columns):
            raise InvalidRequest.of(
                "too_many_cells",
                f"the row has {len(cells)} cells and the header {len(self.columns)}",
            )
        overrides = {
            name: cell
            for name, cell in zip(self.columns, cells, strict=False)
            if name in Generation.model_fields and cell.strip()
        }
        options = parse_text(Generation, {**self.written, **overrides}) if overrides else None
        return (options or self.defaults).request(self.model, prompt=self.prompt(cells))

    def prompt(self, cells: Sequence[str]) -> str:
        return cells[self.prompt_at] if self.prompt_at < len(cells) else ""


class BulkService:
    """Take in files, tell how far they are, and give the answers back in the order of the file."""

    def __init__(
        self,
        *,
        settings: JobSettings,
        intake: Intake,
        committer: Committer,
        store: BulkStore,
        signals: Signals,
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._committer = committer
        self._store = store
        self._signals = signals
        self._counts = BulkCounts(store)

    def submit_file(
        self,
        stream: IO[bytes],
        *,
        filename: str,
        model: str,
        prompt_column: str | None,
        defaults: Mapping[str, str],
    ) -> Bulk:
        """Accept a CSV; when this returns every row is on disk. A wrong row fails by itself.

        `defaults` are generation options as text; columns of the same names override them.

        Raises:
            InvalidRequest: the file as a whole cannot be used; nothing was accepted.
        """
        self._intake.check_name(model)
        written = {"priority": str(BULK_PRIORITY), **defaults}
        options = parse_text(Generation, written)
        layout = files.inspect(stream)  # last, since it reads the whole file
        plan = _Plan(
            model=model,
            columns=layout.columns,
            prompt_at=files.prompt_column(layout, prompt_column),
            defaults=options,
            written=written,
        )
        bulk = self._begin(model, filename, layout.columns, layout.total)
        with closing(files.rows(stream, layout)) as rows:
            self._import(bulk, (self._draft(plan, cells) for cells in rows))
        return self._store.accept_bulk(bulk.id)

    def submit_prompts(self, requests: Sequence[Request]) -> tuple[Bulk, list[Job]]:
        """Accept a list of requests for one model as a bulk, all or none.

        Raises:
            InvalidRequest: one of them can never run.
        """
        drafts = [
            replace(draft, cells=[draft.request.prompt or ""])
            for draft in self._intake.drafts(requests, map("prompts.{}".format, count()))
        ]
        bulk = self._begin(requests[0].model, "", ("prompt",), len(drafts))
        self._import(bulk, iter(drafts))
        return self._store.accept_bulk(bulk.id), list(self._store.bulk_rows(bulk.id))

    def status(self, bulk_id: str) -> BulkStatus:
        """How the bulk stands.

        Raises:
            NotFound: there is no such bulk.
        """
        bulk = self._get(bulk_id)
        progress = self._counts.of(bulk_id)
        open_rows = sum(n for state, n in progress.counts.items() if state not in TERMINAL)
        if bulk.state in (BulkState.IMPORTING, BulkState.ACCEPTED):
            # rows that are not there yet, or were not when they were counted, are open too
            open_rows = bulk.total - sum(progress.counts[state] for state in TERMINAL)
        rate = progress.recent_rows / _seconds(progress)
        return BulkStatus(
            bulk=bulk,
            state=_state(bulk, progress, open_rows),
            counts=progress.counts,
            rows_per_second=rate,
            tokens_per_second=progress.recent_tokens / _seconds(progress),
            eta_seconds=open_rows / rate if rate else None,
            finished_at=None if open_rows else progress.last_finish,
        )

    def cancel(self, bulk_id: str) -> BulkStatus:
        """Cancel all rows that have not ended; cancelling them twice is no error.

        Raises:
            NotFound: there is no such bulk.
            Conflict: all its rows have ended before.
        """
        self._counts.forget(bulk_id)
        if self.status(bulk_id).state == "completed":
            raise Conflict(f"bulk {bulk_id} is completed; there is nothing to cancel")
        self._cancel(bulk_id, BulkState.CANCELLED)
        return self.status(bulk_id)

    def retry(self, bulk_id: str) -> BulkStatus:
        """Run the rows again that failed or are dead, but for those that never could run.

        Raises:
            NotFound: there is no such bulk.
            Conflict: it has no such row, or is not accepted.
        """
        counts = self._store.replay_bulk(
            bulk_id,
            attempts=self._settings.max_attempts,
            slack_seconds=self._settings.slack_seconds,
        )
        self._counts.forget(bulk_id)
        status = self.status(bulk_id)
        if not counts:
            raise Conflict(f"bulk {bulk_id} is {status.state}, and no row failed that has run")
        self._committer.ring(counts)
        return status

    def rows(self, bulk_id: str) -> Iterator[Job]:
        """The bulk's jobs in input order, read a chunk at a time."""
        self._get(bulk_id)
        return self._store.bulk_rows(bulk_id)

    def export_csv(self, bulk_id: str) -> Iterator[bytes]:
        """The output file in pieces: the input's columns, then what came of each row."""
        bulk = self._get(bulk_id)
        return files.write_csv(bulk.columns, self._store.bulk_rows(bulk_id))

    def export_jsonl(self, bulk_id: str) -> Iterator[bytes]:
        """The output as JSON lines."""
        bulk = self._get(bulk_id)
        return files.write_jsonl(bulk.columns, self._store.bulk_rows(bulk_id))

    def _get(self, bulk_id: str) -> Bulk:
        bulk = self._store.get_bulk(bulk_id)
        if bulk is None:
            raise NotFound(f"there is no bulk {bulk_id!r}")
        return bulk

    def _begin(self, model: str, filename: str, columns: Sequence[str], total: int) -> Bulk:
        return self._store.add_bulk(
            Bulk(
                id=new_id(),
                model=model,
                filename=filename,
                columns=columns,
                total=total,
                state=BulkState.IMPORTING,
                submitted_at=0.0,
            )
        )

    def _import(self, bulk: Bulk, drafts: Iterator[NewJob]) -> None:
        """Commit the rows in chunks; if that breaks off, what was committed is cancelled."""
        numbered = (_row(draft, bulk, index) for index, draft in enumerate(drafts))
        try:
            while chunk := list(islice(numbered, CHUNK)):
                self._committer.commit(chunk)
        except BaseException:
            self._cancel(bulk.id, BulkState.ABANDONED)
            raise

    def _cancel(self, bulk_id: str, to: BulkState) -> None:
        """Give the bulk up and cancel its rows; the scheduler cancels what this does not get to."""
        self._store.cancel_bulk(bulk_id, to)
        counter = telemetry.jobs_ended.labels(self._get(bulk_id).model, State.CANCELLED)
        while cancelled := self._store.cancel_rows(bulk_id, at_most=CANCELLED_ROWS):
            counter.inc(len(cancelled))
            for channel in Channel:
                self._signals.send(channel, dict.fromkeys(cancelled))
        self._counts.forget(bulk_id)

    def _draft(self, plan: _Plan, cells: list[str]) -> NewJob:
        try:
            draft = self._intake.draft(plan.request(cells))
        except InvalidRequest as error:
            draft = NewJob(
                id=new_id(),
                request=Request(model=plan.model, prompt=plan.prompt(cells)),
                slack=0.0,
                ended=Ended(error=JobError(error.code, str(error))),
            )
        return replace(draft, cells=cells)


def _row(draft: NewJob, bulk: Bulk, index: int) -> NewJob:
    head_start = HEAD_START * draft.request.params.max_tokens
    return replace(draft, bulk_id=bulk.id, bulk_index=index, slack=draft.slack - head_start)


def _seconds(progress: BulkProgress) -> float:
    """The span that the recent counts stand for: the window, or the bulk's age if it is young."""
    if progress.first_start is None:
        return progress.window
    return max(0.1, min(progress.window, progress.now - progress.first_start))


def _state(bulk: Bulk, progress: BulkProgress, open_rows: int) -> Standing:
    if bulk.state in _NOT_ACCEPTED:
        return _NOT_ACCEPTED[bulk.state]
    if not open_rows:
        return "completed"
    return "queued" if progress.first_start is None else "running"
