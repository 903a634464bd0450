"""Which model of a route gets the next request: pure decisions over a snapshot.

Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b
from itertools import accumulate
from math import ceil, exp, log
from typing import Final

from nexus_jobs.errors import RanTooLong
from nexus_jobs.fleet import ModelState, RegisteredModel, Wanted, WorkerReport
from nexus_jobs.job import Request
from nexus_jobs.ports import Ending
from nexus_jobs.route import Algorithm, Route
from nexus_jobs.states import State

KEY_CHARACTERS: Final = 256
"""Prompts that begin with the same characters go to the same target, which may know them."""
LATENCY_SECONDS: Final = 10.0
"""How fast a latency is forgotten: the time constant of Finagle's peak EWMA."""
UNKNOWN_LATENCY: Final = 1e6
"""Seconds. Who has no latency yet gets one request, and the next when that has ended (Finagle)."""
HEADROOM: Final = 1.25
"""How far a hashed target's jobs may exceed its share (Mirrokni et al., "Consistent Hashing with
Bounded Loads", SODA 2018).
"""


class Breaker(StrEnum):
    """Whether a target gets requests."""

    CLOSED = "closed"  # all that are chosen for it
    OPEN = "open"  # none
    HALF_OPEN = "half_open"  # one at a time, to see whether it is well again


@dataclass(frozen=True, slots=True)
class Health:
    """How a model's last jobs ended: so many `failures` since the last success."""

    failures: int = 0
    failed_at: float = 0.0
    probed_at: float | None = None
    """When a probe was sent that has not ended yet."""

    def after(self, now: float, *, succeeded: bool) -> Health:
        """When one more job has ended."""
        return Health() if succeeded else Health(self.failures + 1, failed_at=now)

    def breaker(self, route: Route, now: float) -> Breaker:
        if self.failures < route.failure_threshold:
            return Breaker.CLOSED
        rested = now >= self.failed_at + route.open_seconds
        return Breaker.HALF_OPEN if rested else Breaker.OPEN

    def lets_pass(self, route: Route, now: float) -> bool:
        """Whether the model may get a request; a probe of which nothing is heard is given up."""
        breaker = self.breaker(route, now)
        if breaker is not Breaker.HALF_OPEN or self.probed_at is None:
            return breaker is not Breaker.OPEN
        return now >= self.probed_at + route.open_seconds

    def chosen(self, route: Route, now: float) -> Health:
        """When the model has been given a request."""
        probes = self.breaker(route, now) is Breaker.HALF_OPEN
        return replace(self, probed_at=now) if probes else self


@dataclass(frozen=True, slots=True)
class PeakEwma:
    """A moving average of seconds that follows a rise at once and a fall slowly (Finagle)."""

    seconds: float = 0.0
    at: float = 0.0

    def after(self, seen: float, now: float) -> PeakEwma:
        """With one more observation."""
        if seen >= self.seconds:
            return PeakEwma(seen, now)
        kept = exp((self.at - now) / LATENCY_SECONDS)
        return PeakEwma(seen + (self.seconds - seen) * kept, now)

    def read(self, now: float) -> float:
        """The average; it falls while nothing is observed, so that a slow target is tried again."""
        return self.after(0.0, now).seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetState:
    """What is known of a model. A `reachable` one is ready on some live worker, or will be soon.

    `outstanding` jobs have been sent and not ended, `latency` is in seconds (0: unknown).
    """

    reachable: bool = True
    health: Health = Health()
    outstanding: int = 0
    latency: float = 0.0
    backlog_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class _Candidate:
    model: str
    weight: float
    state: TargetState


def choose(
    route: Route,
    states: Mapping[str, TargetState],
    *,
    now: float,
    turn: int,
    chance: float,
    key: bytes,
) -> str | None:
    """The target for the next request, else the first fallback that is well; None if none is.

    A model without a state is not considered. `turn` counts the route's requests, `chance` is
    from 0 up to 1, and requests with the same `key` belong together.
    """
    well = [
        _Candidate(target.model, target.weight, states[target.model])
        for target in route.targets
        if _is_well(route, states.get(target.model), now)
    ]
    if not well:
        spare = (model for model in route.fallback if _is_well(route, states.get(model), now))
        return next(spare, None)
    if route.algorithm is Algorithm.CONSISTENT_HASH:
        return _by_hash(well, key).model
    if route.algorithm is Algorithm.WEIGHTED:
        return _by_chance(well, chance).model
    turned = well[turn % len(well) :] + well[: turn % len(well)]  # equals take turns
    return min(turned, key=_COSTS[route.algorithm]).model


def reachable(
    workers: Sequence[WorkerReport], registered: Iterable[RegisteredModel]
) -> frozenset[str]:
    """The models that some worker has ready or is loading, or may be told to load."""
    present = {ModelState.READY, ModelState.WARMING, ModelState.LOADING}
    served = _in_states(workers, present)
    if all(worker.fixed or worker.draining for worker in workers):
        return served
    failed = _in_states(workers, {ModelState.FAILED})
    loadable = (known.name for known in registered if known.wanted is not Wanted.UNLOADED)
    return served | (frozenset(loadable) - failed)


def detours(
    routes: Iterable[Route],
    workers: Sequence[WorkerReport],
    registered: Iterable[RegisteredModel],
) -> Iterator[tuple[Route, str, str]]:
    """For each model that failed on all its workers: its routes, and who takes its queued jobs.

    That is the first model of the route that is reachable; without one, the jobs wait.
    """
    well = reachable(workers, registered)
    failed = _in_states(workers, {ModelState.FAILED}) - well
    for route in routes:
        other = next((model for model in route.models if model in well), None)
        if other is not None:
            yield from ((route, model, other) for model in route.models if model in failed)


def _in_states(workers: Iterable[WorkerReport], states: Collection[ModelState]) -> frozenset[str]:
    return frozenset(
        name
        for worker in workers
        for name, served in worker.models.items()
        if served.state in states
    )


def prefix_key(request: Request) -> bytes:
    """The beginning of the system prompt and what follows it, or of the prompt."""
    if request.messages is None:
        return (request.prompt or "")[:KEY_CHARACTERS].encode(errors="replace")
    start = "\n".join(turn.content[:KEY_CHARACTERS] for turn in request.messages[:KEY_CHARACTERS])
    return start[:KEY_CHARACTERS].encode(errors="replace")


def verdict(ending: Ending) -> bool | None:
    """Whether the end of a job speaks for its model or against it; None if neither.

    A job whose request was at fault says nothing.
    """
    if ending.state is State.SUCCEEDED:
        return True
    too_long = ending.error is not None and ending.error.code == RanTooLong.code
    return False if ending.state is State.DEAD or too_long else None


def _is_well(route: Route, state: TargetState | None, now: float) -> bool:
    return state is not None and state.reachable and state.health.lets_pass(route, now)


def _by_chance(candidates: Sequence[_Candidate], chance: float) -> _Candidate:
    bounds = list(accumulate(candidate.weight for candidate in candidates))
    point = chance * bounds[-1]
    inside = (c for c, bound in zip(candidates, bounds, strict=True) if point < bound)
    return next(inside, candidates[-1])


def _by_hash(candidates: Sequence[_Candidate], key: bytes) -> _Candidate:
    """The first of the key's ranking that is not too busy (weighted rendezvous hashing)."""
    jobs = 1 + sum(candidate.state.outstanding for candidate in candidates)
    weights = sum(candidate.weight for candidate in candidates)

    def has_room(candidate: _Candidate) -> bool:
        share = jobs * candidate.weight / weights
        return candidate.state.outstanding < ceil(HEADROOM * share)

    ranking = sorted(candidates, key=lambda candidate: _rank(candidate, key), reverse=True)
    return next(filter(has_room, ranking))


def _rank(candidate: _Candidate, key: bytes) -> float:
    drawn = blake2b(candidate.model.encode() + b"\0" + key, digest_size=6).digest()
    return -candidate.weight / log((int.from_bytes(drawn) + 0.5) / 2**48)


def _connections(candidate: _Candidate) -> float:
    return (candidate.state.outstanding + 1) / candidate.weight


def _latency(candidate: _Candidate) -> float:
    state = candidate.state
    if not state.latency:
        return UNKNOWN_LATENCY * state.outstanding
    return state.latency * _connections(candidate)


def _backlog(candidate: _Candidate) -> float:
    return candidate.state.backlog_tokens / candidate.weight


_COSTS: Final[Mapping[Algorithm, Callable[[_Candidate], float]]] = {
    Algorithm.ROUND_ROBIN: lambda _: 0.0,
    Algorithm.LEAST_CONNECTIONS: _connections,
    Algorithm.LEAST_LATENCY: _latency,
    Algorithm.LEAST_BACKLOG_TOKENS: _backlog,
}
