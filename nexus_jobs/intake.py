"""What may become a job: requests are checked against the registry and turned into drafts."""

from __future__ import annotations

import time
from collections.abc import Callable

import uuid_utils

from nexus_jobs.config import JobSettings
from nexus_jobs.engine import Tokenizer
from nexus_jobs.errors import InvalidRequest
from nexus_jobs.fingerprint import digest, fingerprint
from nexus_jobs.job import Idempotency, NewJob, Request
from nexus_jobs.models import ModelConfig
from nexus_jobs.ports import FleetStore
from nexus_jobs.prompting import prompt_ids, surely_fits
from nexus_jobs.spelling import did_you_mean

CATALOG_SECONDS = 2.0
"""How long a change of the registry may take to reach an API process."""
KEY_SECONDS = 24 * 3600.0
"""How long an idempotency key stands for the job that it made."""


def new_id() -> str:
    """A UUIDv7: unique everywhere, and ids sort by the time they were made."""
    return str(uuid_utils.uuid7())


class Catalog:
    """The registered models, read again from the registry now and then."""

    def __init__(self, fleet: FleetStore) -> None:
        self._fleet = fleet
        self._models: dict[str, ModelConfig] = {}
        self._fresh_until = 0.0

    def models(self) -> dict[str, ModelConfig]:
        if time.monotonic() >= self._fresh_until:
            self._models = {model.name: model for model in self._fleet.models()}
            self._fresh_until = time.monotonic() + CATALOG_SECONDS
        return self._models

    def model(self, name: str) -> ModelConfig:
        """The model of that name.

        Raises:
            InvalidRequest: there is none; the message names the nearest and all others.
        """
        models = self.models()
        if name in models:
            return models[name]
        raise InvalidRequest.of(
            "unknown_model",
            f"there is no model {name!r}{did_you_mean(name, models)}"
            f" (there are: {', '.join(sorted(models)) or 'none'})",
            field="model",
        )


class Intake:
    """The one check that every request passes, single or from a bulk."""

    def __init__(
        self,
        *,
        settings: JobSettings,
        catalog: Catalog,
        tokenizer: Callable[[ModelConfig], Tokenizer | None],
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._tokenizer = tokenizer

    def model(self, name: str) -> ModelConfig:
        """The registered model of that name.

        Raises:
            InvalidRequest: there is none.
        """
        return self._catalog.model(name)

    def draft(self, request: Request, key: str | None = None) -> NewJob:
        """Check a request and make it a job that can be committed, once only if it has a key.

        Raises:
            InvalidRequest: the model is unknown, or the request can never run on it.
        """
        model = self._catalog.model(request.model)
        self._check(request, model)
        return NewJob(
            id=new_id(),
            request=request,
            slack=self._settings.slack_seconds[request.priority],
            max_attempts=self._settings.max_attempts,
            fingerprint=fingerprint(request, model) if request.use_cache else None,
            idempotency=_idempotency(request, key),
        )

    def _check(self, request: Request, model: ModelConfig) -> None:
        field = "prompt" if request.messages is None else "messages"
        texts = [request.prompt or "", *(turn.content for turn in request.messages or ())]
        if not any(text.strip() for text in texts):
            raise InvalidRequest.of("empty_prompt", f"`{field}` must not be empty", field=field)
        if any("\x00" in text for text in texts):
            raise InvalidRequest.of(
                "invalid_character", f"`{field}` must not hold NUL characters", field=field
            )
        if request.params.max_tokens >= model.max_sequence_length:
            raise InvalidRequest.of(
                "out_of_range",
                f"`max_tokens`: model {model.name!r} takes {model.max_sequence_length} tokens, "
                f"prompt and answer together; ask for fewer than that",
                field="max_tokens",
            )
        if request.reproducible and not model.is_reproducible:
            raise InvalidRequest.of(
                "not_reproducible",
                f"model {model.name!r} may run on an engine whose answers depend on what else is "
                "in the batch; register it with `reproducible: true` to rule that out",
                field="reproducible",
            )
        if not surely_fits(request, model):
            tokenizer = self._tokenizer(model)
            if tokenizer is not None:
                prompt_ids(request, model, tokenizer, model.max_sequence_length)


def _idempotency(request: Request, key: str | None) -> Idempotency | None:
    if key is None:
        return None
    return Idempotency(key=key, digest=digest(request), seconds=KEY_SECONDS)
