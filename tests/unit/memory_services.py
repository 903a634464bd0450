"""The API's services with everything in memory, and a worker's part in them."""

from __future__ import annotations

from nexus_jobs.bootstrap import Services
from nexus_jobs.job import FinishReason, Outcome, Request, Result
from nexus_jobs.models import ModelConfig
from nexus_jobs.ports import Channel
from nexus_jobs.states import Event

MODEL = ModelConfig(name="simulated", type="simulated", max_sequence_length=256)
ANSWER = Result(text="hi", finish_reason=FinishReason.STOP, prompt_tokens=1, completion_tokens=1)


def ask(prompt: str = "hello", **fields: object) -> Request:
    return Request(model="simulated", prompt=prompt, **fields)


def finish_all(services: Services) -> int:
    """Answer every queued job as a worker would."""
    store = services.platform.store
    jobs = store.claim("simulated", 1000, worker="w", lease_seconds=60)
    outcomes = [
        Outcome(lease=job.lease, event=Event.SUCCEED, result=ANSWER, fingerprint=job.fingerprint)
        for job in jobs
    ]
    ended = {lease.job_id: None for lease in store.finish(outcomes)}
    services.platform.signals.send(Channel.ENDED, ended)
    return len(jobs)


def note_durability(store, monkeypatch) -> list[bool]:
    """Whether each later call of `add` has to wait for the disk."""
    noted, add = [], store.add

    def note(*given, durable):
        noted.append(durable)
        return add(*given, durable=durable)

    monkeypatch.setattr(store, "add", note)
    return noted
