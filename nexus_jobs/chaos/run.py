"""One run: offer load to a platform, break it, let it settle, and judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import URL
from sqlalchemy.exc import OperationalError

from nexus_jobs.adapters.redis_link import RedisLink
from nexus_jobs.adapters.redis_signals import RedisSignals
from nexus_jobs.chaos import ledger
from nexus_jobs.chaos.campaign import Campaign
from nexus_jobs.chaos.checker import check
from nexus_jobs.chaos.company import second_scheduler, worker_from_the_future
from nexus_jobs.chaos.database_faults import Crashed, Full, Locked, Stalled
from nexus_jobs.chaos.fault import Fault
from nexus_jobs.chaos.ground import WORKERS, Ground, ground
from nexus_jobs.chaos.history import History, Told
from nexus_jobs.chaos.link_faults import Away, Blackholed, Cut, HalfOpen
from nexus_jobs.chaos.offer import Offer
from nexus_jobs.chaos.process_faults import ROLES, Frozen, Killed, PowerCut
from nexus_jobs.chaos.proxy import Proxy
from nexus_jobs.chaos.redis_faults import (
    Disconnected,
    Emptied,
    Restarted,
    StrangeSignals,
    StrangeTickets,
)
from nexus_jobs.chaos.report import Report
from nexus_jobs.chaos.servers import Sqlite
from nexus_jobs.chaos.talks import QUICK
from nexus_jobs.errors import ConfigError
from nexus_jobs.ports import Channel, Hints

_STILL_SECONDS: Final = 30.0
"""How long nothing may end before the jobs that are left count as lost."""
_LOOK_SECONDS: Final = 0.5


def run(
    seconds: float,
    *,
    rate: float,
    database: str,
    seed: int,
    only: Sequence[str] = (),
    say: Callable[[str], None],
) -> Report:
    """Break a new platform for so long while `rate` jobs a second are offered.

    `only` are parts of the names of the faults that are wanted; none is all of them.

    Raises:
        ConfigError: no fault has such a name.
    """
    with ground(database) as built, _listening(built) as history:
        say(f"a platform runs at {built.stack.url}; breaking it for {seconds:g} s, seed {seed}")
        offer = Offer(built.stack.url, history, rate=rate, seed=seed)
        campaign = Campaign(wanted(faults(built), only), seed=seed, say=say)
        started = time.monotonic()
        offer.start()
        try:
            campaign.run(seconds)
        finally:
            offered_for = time.monotonic() - started
            offer.stop()
        say("all is whole again; waiting for the jobs that have not ended")
        database_url = built.database.direct_url
        settle(database_url)
        verdict = check(history, ledger.rows(database_url))
        return Report(
            database=database_url.get_backend_name(),
            seed=seed,
            seconds=offered_for,
            offered=offer.offered,
            injected=campaign.injected,
            odd=offer.odd,
            history=history,
            verdict=verdict,
            log=_kept_log(built) if verdict.breaches else None,
        )


def faults(built: Ground) -> list[Fault]:
    """All that can be done to this platform."""
    stack, redis = built.stack, built.redis
    everywhere: list[Fault] = [
        *(Killed(stack, role) for role in ROLES),
        *(Frozen(stack, role) for role in ROLES),
        PowerCut(stack, redis, WORKERS),
        second_scheduler(stack),
        Emptied(redis),
        Restarted(redis),
        Disconnected(redis),
        StrangeTickets(redis, QUICK, built.folder / "opened"),
        StrangeSignals(redis),
        *_of_the_link(redis.proxy, "redis"),
        HalfOpen(redis.proxy, "redis"),
    ]
    return everywhere + _of_the_database(built)


def wanted(there: Sequence[Fault], only: Sequence[str]) -> list[Fault]:
    """Those of the faults whose names have one of the parts in them.

    Raises:
        ConfigError: there are none.
    """
    found = [fault for fault in there if not only or any(part in fault.name for part in only)]
    if not found:
        names = ", ".join(fault.name for fault in there)
        raise ConfigError(f"no fault is called {' or '.join(only)}; there are: {names}")
    return found


def _of_the_link(proxy: Proxy, server: str) -> list[Fault]:
    return [Blackholed(proxy, server), Cut(proxy, server), Away(proxy, server)]


def _of_the_database(built: Ground) -> list[Fault]:
    if isinstance(built.database, Sqlite):
        return [Locked(built.database.file), Full(built.disk)]
    shared = _of_the_link(built.database.proxy, "postgresql")
    shared.append(worker_from_the_future(built.stack, built.folder))
    if built.postgres:
        shared += [Crashed(built.postgres), Stalled(built.postgres)]
    return shared


def settle(database: URL) -> None:
    """Wait until every job has ended, or none ends any more."""
    left, changed = -1, time.monotonic()
    while left and time.monotonic() < changed + _STILL_SECONDS:
        try:
            now_left = ledger.unfinished(database)
        except OperationalError:
            now_left = left  # it is coming back
        if now_left != left:
            left, changed = now_left, time.monotonic()
        time.sleep(_LOOK_SECONDS)


def _kept_log(built: Ground) -> Path:
    """The platform's log, where it outlives the platform."""
    kept = Path(f"{built.folder}.log")
    kept.write_text(built.stack.log())
    return kept


@contextmanager
def _listening(built: Ground) -> Iterator[History]:
    """A history that also hears what workers tell those who wait."""
    history = History()

    def heard(hints: Hints) -> None:
        at = time.monotonic()
        history.heard(
            *(
                Told(
                    job_id=job_id,
                    asked=at,
                    at=at,
                    state=ending.state,
                    attempt=ending.attempt,
                    text=ending.result.text if ending.result else None,
                )
                for job_id, ending in hints.items()
                if ending is not None
            )
        )

    with closing(RedisSignals(RedisLink(built.redis.direct_url))) as signals:
        signals.listen(Channel.ENDED, heard)
        yield history
