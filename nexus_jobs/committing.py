"""How drafts become committed jobs: answered by the cache, put on disk in groups, announced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import structlog

from nexus_jobs import telemetry
from nexus_jobs.caching import TieredCache
from nexus_jobs.errors import QueueUnavailable
from nexus_jobs.groups import Groups, in_parts
from nexus_jobs.job import Ended, Job, NewJob
from nexus_jobs.ports import JobStore, TicketQueue

log = structlog.get_logger(__name__)

MOST_DRAFTS = 1000
"""In one transaction, unless one entry alone has more."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """Drafts that are accepted together or not at all, and the jobs they become."""

    drafts: Sequence[NewJob]
    durable: bool
    jobs: Future[list[Job]] = field(default_factory=Future)


class Committer:
    """The one way onto the disk for jobs, single or from a bulk.

    `never_run` is told the ids of drafts that came by a route and that no worker will get: refused,
    repeated, or answered by the cache.

    Drafts that arrive while a commit is in flight share the next one: its look-up in the caches,
    its transaction, and one ring for each model. Those who wait for the commit never wait for
    the tickets.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        cache: TieredCache,
        tickets: TicketQueue,
        never_run: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._cache = cache
        self._tickets = tickets
        self._never_run = never_run
        self._entries = Groups("committer", self._commit_all)
        self._rings = Groups("ringer", self._ring)
        self._entries.start()
        self._rings.start()

    def commit(self, drafts: Sequence[NewJob]) -> list[Job]:
        """Commit the drafts, all or none, with cached answers where there are any.

        Raises:
            StoreUnavailable: the database did not answer.
            Conflict, InvalidRequest: they contradict what is stored; nothing was accepted.
        """
        return self.submit(drafts).result()

    def submit(self, drafts: Sequence[NewJob], *, durable: bool = True) -> Future[list[Job]]:
        """Commit as `commit` does, without waiting for it.

        What need not be `durable` is on the disk with the jobs' ends, or after `flush`.
        """
        entry = _Entry(drafts, durable)
        self._entries.put(entry)
        return entry.jobs

    def flush(self) -> Future[list[Job]]:
        """Put on the disk whatever was committed before; those who ask meanwhile share it."""
        return self.submit([])

    def ring(self, counts: Mapping[str, int]) -> None:
        """Say how many jobs of each model have been queued in another way; does not wait."""
        self._rings.put(Counter(counts))

    def close(self) -> None:
        """Finish what was submitted before."""
        self._entries.close()
        self._rings.close()

    def _commit_all(self, entries: Sequence[_Entry]) -> None:
        """In transactions of a bounded size, so that nobody waits for a crowd of large uploads."""
        group: list[_Entry] = []
        for entry in entries:
            if group and sum(len(e.drafts) for e in group) + len(entry.drafts) > MOST_DRAFTS:
                self._commit(group)
                group = []
            group.append(entry)
        self._commit(group)

    def _commit(self, group: Sequence[_Entry]) -> None:
        for part, added in in_parts(group, self._add):
            if isinstance(added, Exception):
                self._refuse(part, added)
            else:
                self._accept(part, added)

    def _accept(self, group: Sequence[_Entry], added: Sequence[Job]) -> None:
        drafts = _drafts(group)
        pairs = zip(added, drafts, strict=True)
        self._never_run([d.id for job, d in pairs if d.route and (job.ended or job.id != d.id)])
        try:
            _count(_new(added, drafts))
        except Exception:  # they are committed, whatever a counter says
            log.exception("counting.failed")
        jobs = iter(added)
        for entry in group:
            entry.jobs.set_result(list(islice(jobs, len(entry.drafts))))

    def _refuse(self, group: Sequence[_Entry], error: Exception) -> None:
        for entry in group:
            self._never_run([draft.id for draft in entry.drafts if draft.route])
            entry.jobs.set_exception(error)

    def _add(self, group: Sequence[_Entry]) -> list[Job]:
        drafts = _drafts(group)
        if not drafts:
            self._store.flush()
            return []
        answered = self._answered(drafts)
        durable = any(entry.durable for entry in group) or any(d.ended for d in answered)
        ring = partial(self._ring_for, drafts)
        return self._store.add(answered, ring, durable=durable)

    def _answered(self, drafts: Sequence[NewJob]) -> list[NewJob]:
        wanted = [d.fingerprint for d in drafts if d.fingerprint is not None and d.ended is None]
        known = self._cache.find(wanted) if wanted else {}
        return [
            replace(draft, ended=Ended(*known[draft.fingerprint]))
            if draft.fingerprint in known
            else draft
            for draft in drafts
        ]

    def _ring_for(self, drafts: Sequence[NewJob], stored: Sequence[Job]) -> None:
        """Ring for those that are new and have to run."""
        jobs = _new(stored, drafts)
        waiting = Counter(job.request.model for job in jobs if not job.ended)
        if waiting:
            self._rings.put(waiting)

    def _ring(self, group: Sequence[Counter[str]]) -> None:
        counts: Counter[str] = sum(group, Counter())
        try:
            self._tickets.ring(counts)
        except QueueUnavailable as error:
            telemetry.tickets_lost.inc(counts.total())
            log.warning("tickets.unsent", jobs=counts.total(), reason=str(error))
        except Exception:  # a ticket only hurries; the scheduler rings again
            log.exception("tickets.failed")


def _drafts(group: Sequence[_Entry]) -> list[NewJob]:
    return [draft for entry in group for draft in entry.drafts]


def _new(stored: Sequence[Job], drafts: Sequence[NewJob]) -> list[Job]:
    """The jobs that the drafts became, without those that stood there before."""
    return [job for job, draft in zip(stored, drafts, strict=True) if job.id == draft.id]


def _count(jobs: Sequence[Job]) -> None:
    for model, count in Counter(job.request.model for job in jobs).items():
        telemetry.jobs_submitted.labels(model).inc(count)
    ended = Counter((job.request.model, job.state) for job in jobs if job.ended)
    for (model, state), count in ended.items():
        telemetry.jobs_ended.labels(model, state).inc(count)
