"""What may become a job: requests are checked against the registry and turned into drafts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import repeat

import uuid_utils

from nexus_jobs.catalog import Catalog
from nexus_jobs.config import JobSettings
from nexus_jobs.engine import Tokenizer
from nexus_jobs.errors import InvalidRequest, NexusError
from nexus_jobs.fingerprint import digest, fingerprint
from nexus_jobs.job import Idempotency, Job, NewJob, Request
from nexus_jobs.models import ModelConfig
from nexus_jobs.prompting import prompt_ids, surely_fits
from nexus_jobs.route import Route
from nexus_jobs.router import Router
from nexus_jobs.submission import Changes

KEY_SECONDS = 24 * 3600.0
"""How long an idempotency key stands for the job that it made."""

SHADOW_SECONDS = 600.0
"""A copy that has not started by then is dropped, lest copies pile up."""


def new_id() -> str:
    """A UUIDv7: unique everywhere, and ids sort by the time they were made."""
    return str(uuid_utils.uuid7())


class Intake:
    """The one check that every request passes, single or from a bulk."""

    def __init__(
        self,
        *,
        settings: JobSettings,
        catalog: Catalog,
        router: Router,
        tokenizer: Callable[[ModelConfig], Tokenizer | None],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._router = router
        self._tokenizer = tokenizer
        self._chance = chance

    def check_name(self, name: str) -> None:
        """See that there is a model or a route of that name.

        Raises:
            InvalidRequest: there is none.
        """
        self._catalog.check_name(name)

    def drafts(
        self, requests: Iterable[Request], prompts: Iterable[str] = repeat("prompt")
    ) -> list[NewJob]:
        """Drafts of all the requests; `prompts` are the fields in which their prompts stood.

        Raises:
            InvalidRequest, NoTarget: as `draft` does; then none of them will run.
        """
        made: list[NewJob] = []
        try:
            for request, field in zip(requests, prompts, strict=False):
                try:
                    made.append(self.draft(request))
                except InvalidRequest as error:
                    raise error.renamed("prompt", field) from error
        except NexusError:
            self._router.withdraw(draft.id for draft in made)
            raise
        return made

    def draft(self, request: Request, key: str | None = None, job_id: str | None = None) -> NewJob:
        """Check a request and make it a job that can be committed, once only if it has a key.

        Raises:
            InvalidRequest: the model is unknown, or the request can never run on it.
            NoTarget: the model is a route that has none now, and refuses then.
        """
        job_id = job_id or new_id()
        route = self._catalog.routes().get(request.model)
        if route is None:
            model = self._checked(request, request.model)
        else:
            model = self._placed(request, route, job_id)
        placed = replace(request, model=model.name)
        return NewJob(
            id=job_id,
            request=placed,
            slack=self._settings.slack_seconds[request.priority],
            max_attempts=self._settings.max_attempts,
            fingerprint=fingerprint(placed, model) if request.use_cache else None,
            route=route.name if route else None,
            idempotency=None if key is None else idempotency(request, key),
        )

    def redraft(self, job: Job, changes: Changes) -> NewJob:
        """The draft of a job that is to run again, by its route if that is still there.

        Raises:
            InvalidRequest, NoTarget: as `draft` does.
        """
        request = job.request
        if job.route in self._catalog.routes():
            request = replace(request, model=job.route)
        return self.draft(changes.applied_to(request), job_id=job.id)

    def shadow(self, job: Job) -> NewJob | None:
        """A copy of a job for the shadow of its route, if there is one and the lot says so."""
        route = self._catalog.routes().get(job.route or "")
        shadow = route and route.shadow
        if not shadow or shadow.model not in self._catalog.models():
            return None
        if 100 * self._chance() >= shadow.percent:
            return None
        request = replace(
            job.request,
            model=shadow.model,
            priority=len(self._settings.slack_seconds) - 1,
            expires_in=job.request.expires_in or SHADOW_SECONDS,
            use_cache=False,
        )
        slack = self._settings.slack_seconds[-1]
        return NewJob(id=new_id(), request=request, slack=slack, max_attempts=1, shadow_of=job.id)

    def _checked(self, request: Request, name: str) -> ModelConfig:
        model = self._catalog.model(name)
        self._check(request, model)
        return model

    def _placed(self, request: Request, route: Route, job_id: str) -> ModelConfig:
        """The first of the router's choices that can run the request.

        Raises:
            InvalidRequest: none can; it says why the first cannot.
            NoTarget: none is there now.
        """
        refusals: dict[str, InvalidRequest] = {}
        while name := self._router.choose(route, request, job_id, without=refusals):
            try:
                return self._checked(request, name)
            except InvalidRequest as error:
                self._router.withdraw([job_id])
                refusals[name] = error
        raise next(iter(refusals.values()))

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


def idempotency(request: Request, key: str) -> Idempotency:
    """What marks the request as the one of that key."""
    return Idempotency(key=key, digest=digest(request), seconds=KEY_SECONDS)
