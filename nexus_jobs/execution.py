"""What a worker does with one job: prepare it for an engine, follow its tokens, settle it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from nexus_jobs import telemetry
from nexus_jobs.caching import TieredCache
from nexus_jobs.engine import Engine, Progress, Tokenizer, TokenSequence, Usage
from nexus_jobs.errors import EngineError, InvalidRequest, OutOfMemory, QueueUnavailable
from nexus_jobs.job import FinishReason, Job, Lease, Outcome, Result, SamplingParams
from nexus_jobs.models import ModelConfig
from nexus_jobs.ports import Channel, Clock, Ending, JobStore, Settled, Signals, TicketQueue
from nexus_jobs.prompting import prompt_ids
from nexus_jobs.states import TERMINAL, Event, State

log = structlog.get_logger(__name__)

WARM_UP_SECONDS: Final = 3.0
TRIAL_SECONDS: Final = 30.0
"""An engine of which nothing comes for so long does not work."""
_TRIAL: Final = SamplingParams(max_tokens=2, ignore_eos=True)
_TRIAL_PROMPTS: Final = (
    "Hello",
    "Write one sentence about the sea.",
    "Which is larger, a third or a quarter? Give the reason, then the answer in one word.",
)


class Row:
    """A claimed job on its way through the batch. Times are seconds on the worker's clock."""

    def __init__(self, job: Job, sequence: TokenSequence, tokenizer: Tokenizer) -> None:
        self.job = job
        self.sequence = sequence
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._usage: Usage | None = None
        self.joined_at = self._first_token_at = self._ended_at = 0.0

    @property
    def id(self) -> str:
        """Names the attempt, since two of one job may meet in a batch after a lapsed lease."""
        return self.sequence.id

    @property
    def prompt_length(self) -> int:
        return len(self.sequence.prompt)

    @property
    def length(self) -> int:
        """Tokens of the answer so far."""
        return len(self._tokens)

    def join(self, now: float) -> None:
        """Note when the row entered the batch."""
        self.joined_at = self._first_token_at = self._ended_at = now

    def advance(self, progress: Progress, now: float) -> bool:
        """Take in what a step produced; whether the row is done.

        A stop string ends the row here, since engines do not know about text.
        """
        if not self._tokens:
            self._first_token_at = now
        self._tokens.extend(progress.token_ids)
        self._ended_at = now
        self.finish_reason = progress.finish_reason
        self._usage = progress.usage
        if self.finish_reason is None and self._at_stop_string(len(progress.token_ids)):
            self.finish_reason = FinishReason.STOP
        return self.finish_reason is not None

    def outcome(self, event: Event) -> Outcome:
        """How this attempt ended that met no error, with the text if it succeeded."""
        return Outcome(
            lease=self.job.lease,
            event=event,
            result=self._result() if event is Event.SUCCEED else None,
            fingerprint=self.job.fingerprint,
        )

    def _result(self) -> Result:
        params = self.sequence.params
        at_least = max(0, params.min_tokens - 1)
        text, stopped = _first_stop(params.stop, self._tokens, at_least, self._tokenizer)
        usage = self._usage or Usage(self.prompt_length, len(self._tokens))
        return Result(
            text=text,
            finish_reason=FinishReason.STOP if stopped else self.finish_reason or FinishReason.STOP,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            prefill_ms=1000 * (self._first_token_at - self.joined_at),
            decode_ms=1000 * (self._ended_at - self._first_token_at),
        )

    def _at_stop_string(self, new: int) -> bool:
        params = self.sequence.params
        if not params.stop or len(self._tokens) < params.min_tokens:
            return False
        # A token is at least one byte, so this tail holds any stop string the new tokens end.
        longest = max(len(stop.encode()) for stop in params.stop)
        tail = self._tokens[-(longest + new + 3) :]
        return _first_stop(params.stop, tail, len(tail) - new, self._tokenizer)[1]


def prepare(job: Job, model: ModelConfig, engine: Engine) -> Row:
    """Make a claimed job ready for the engine.

    Raises:
        InvalidRequest: the prompt does not fit, or the engine cannot keep what was asked for.
    """
    if job.request.reproducible and not engine.reproducible:
        raise InvalidRequest.of(
            "not_reproducible", f"answers of {engine.name} depend on what else is in the batch"
        )
    ids = prompt_ids(job.request, model, engine.tokenizer, engine.max_sequence_length)
    return Row(job, TokenSequence(str(job.lease), ids, job.request.params), engine.tokenizer)


def try_out(engine: Engine, rows: int = 1, clock: Clock = time.monotonic) -> None:
    """Generate a little in an engine that holds no row, to see that it can.

    Raises:
        EngineError: it cannot; it is still usable.
        ModelUnavailable: it has died.
    """
    prompts = [engine.tokenizer.encode(text) for text in _TRIAL_PROMPTS]
    longest = engine.max_sequence_length - _TRIAL.max_tokens
    sequences = [
        TokenSequence(f"warm-up/{row}", prompts[row % len(prompts)][:longest], _TRIAL)
        for row in range(rows)
    ]
    engine.admit(sequences)
    running = {sequence.id for sequence in sequences}
    try:
        while running:
            running -= {row.sequence_id for row in _signs_of_life(engine, clock) if row.is_last}
    finally:
        for sequence_id in running:
            engine.evict(sequence_id)


def _signs_of_life(engine: Engine, clock: Clock) -> list[Progress]:
    """The next progress of a trial.

    Raises:
        EngineError: there is none for too long, or a row failed.
    """
    until = clock() + TRIAL_SECONDS
    while not (progress := engine.step()):
        if clock() >= until:
            raise EngineError(f"{engine.name}: no answer within {TRIAL_SECONDS:g} s")
    for row in progress:
        if row.error is not None:
            raise EngineError(f"{engine.name}: {row.error}") from row.error
    return progress


def warm_up(engine: Engine, clock: Clock = time.monotonic) -> None:
    """Run batches of one row, of two, of four, and so on, so that jobs meet a warm engine.

    What takes longer than `WARM_UP_SECONDS` is left to the jobs.

    Raises:
        EngineError: the engine cannot run.
        ModelUnavailable: it has died.
    """
    powers = (1 << power for power in range(engine.slots.bit_length()))
    until = clock() + WARM_UP_SECONDS
    for rows in sorted({*powers, engine.slots}):
        try:
            try_out(engine, rows)
        except OutOfMemory:
            if rows == 1:
                raise
            return  # the batch finds its bound by itself
        if clock() >= until:
            return


class Settlement:
    """Records how attempts ended, then tells the caches, whoever waits, and other workers."""

    def __init__(
        self, *, store: JobStore, cache: TieredCache, signals: Signals, tickets: TicketQueue
    ) -> None:
        self._store = store
        self._cache = cache
        self._signals = signals
        self._tickets = tickets

    def settle(self, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
        """Commit the outcomes of these jobs in one transaction.

        Raises:
            StoreUnavailable: nothing was recorded; the same call can be repeated.
            NexusError: nothing was recorded, since the store cannot hold one of them.
        """
        settled = self._store.finish(outcomes)
        try:
            self._tell(jobs, outcomes, settled)
        except Exception:  # they are committed, whatever a cache or a counter says
            log.exception("telling.failed")

    def _tell(
        self, jobs: Sequence[Job], outcomes: Sequence[Outcome], settled: Mapping[Lease, Settled]
    ) -> None:
        ended = [
            (job, outcome, settled[outcome.lease])
            for job, outcome in zip(jobs, outcomes, strict=True)
            if outcome.lease in settled and settled[outcome.lease].state in TERMINAL
        ]
        self._cache.put(
            {
                outcome.fingerprint: outcome.result
                for _, outcome, _ in ended
                if outcome.result is not None and outcome.fingerprint is not None
            }
        )
        self._signals.send(
            Channel.ENDED, {job.id: _ending(job, outcome, how) for job, outcome, how in ended}
        )
        self._ring(
            Counter(
                job.request.model
                for job, outcome in zip(jobs, outcomes, strict=True)
                if outcome.lease in settled and outcome.event is Event.RELEASE
            )
        )
        for job, outcome, how in ended:
            _count(job, outcome, how.state)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if outcome.lease not in settled and outcome.event is not Event.RELEASE:
                telemetry.leases_lost.labels(job.request.model).inc()

    def _ring(self, handed_back: Counter[str]) -> None:
        """Let another worker start at once what this one hands back."""
        if not handed_back:
            return
        try:
            self._tickets.ring(handed_back)
        except QueueUnavailable as error:
            log.warning("tickets.unsent", jobs=handed_back.total(), reason=str(error))


def _ending(job: Job, outcome: Outcome, settled: Settled) -> Ending | None:
    """What others may be told; a route hears how its rows of bulks ended too, without their text.

    Hardly anybody waits for the row of a bulk, or for a copy; who does, reads it.
    """
    if job.shadow_of is not None or (job.bulk_id is not None and job.route is None):
        return None
    return Ending(
        model=job.request.model,
        state=settled.state,
        attempt=outcome.lease.attempt,
        started_at=job.started_at,
        finished_at=settled.at,
        worker=job.worker,
        result=None if job.bulk_id else outcome.result,
        error=outcome.error,
    )


def _count(job: Job, outcome: Outcome, state: State) -> None:
    model = job.request.model
    telemetry.jobs_ended.labels(model, state).inc()
    if outcome.result is not None:
        telemetry.prompt_tokens.labels(model).inc(outcome.result.prompt_tokens)
        telemetry.generation_tokens.labels(model).inc(outcome.result.completion_tokens)
    if job.started_at is not None:
        telemetry.queue_seconds.labels(model).observe(max(0, job.started_at - job.submitted_at))


def _first_stop(
    stops: Sequence[str], tokens: Sequence[int], kept: int, tokenizer: Tokenizer
) -> tuple[str, bool]:
    """The text up to the first stop string that ends after the first `kept` tokens, if any."""
    text = tokenizer.decode(tokens)
    if not stops:
        return text, False
    seen = len(tokenizer.decode(tokens[:kept]))
    found = [text.find(stop, max(0, seen - len(stop) + 1)) for stop in stops]
    ends = [at for at in found if at >= 0]
    return (text[: min(ends)], True) if ends else (text, False)
