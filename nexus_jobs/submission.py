"""What a client may write when it submits a job, and the check of it, for JSON and CSV alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError, to_json

from nexus_jobs.errors import InvalidRequest, Problem
from nexus_jobs.job import Message, Request, SamplingParams
from nexus_jobs.spelling import did_you_mean

ModelT = TypeVar("ModelT", bound=BaseModel)

MAX_STOPS = 16
MAX_METADATA_KEYS = 64
LEAST: Final = 1e-6
"""What is less is as good as 0, and is 0 in the arithmetic of some engines."""
MOST_PROBLEMS: Final = 100
"""So many a client is told at once."""

StopString = Annotated[str, StringConstraints(min_length=1, max_length=256)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    try:
        orjson.dumps(value)
        json.dumps(value, allow_nan=False)
    except orjson.JSONEncodeError as error:
        raise PydanticCustomError("invalid_value", "integers must fit into 64 bits") from error
    except ValueError as error:
        raise PydanticCustomError("invalid_value", "numbers must be finite") from error
    return value


def _zero_or_more(value: float) -> float:
    if 0 < value < LEAST:
        raise PydanticCustomError(
            "out_of_range", "input should be 0, or at least {least}", {"least": LEAST}
        )
    return value


Metadata = Annotated[dict[str, Any], AfterValidator(_storable)]


class ChatMessage(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class Generation(BaseModel):
    """How to generate; every field has a default, so any of them may be left out."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    max_tokens: int = Field(128, ge=1)
    """The most tokens to generate."""
    min_tokens: int = Field(0, ge=0)
    """Do not end before this many tokens."""
    ignore_eos: bool = False
    """Go on to `max_tokens` even when the model wants to end."""
    temperature: Annotated[float, AfterValidator(_zero_or_more)] = Field(0.0, ge=0, le=2)
    """0 always takes the likeliest token; higher is more varied."""
    top_p: float = Field(1.0, ge=LEAST, le=1)
    """Sample from the likeliest tokens that together have this probability."""
    top_k: int = Field(0, ge=0, le=2**31 - 1)
    """Sample from this many of the likeliest tokens; 0 is all."""
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    """Makes sampling repeatable, on models whose engine is reproducible."""
    stop: Annotated[list[StopString], BeforeValidator(_as_list)] = Field([], max_length=MAX_STOPS)
    """A string or a list of strings; the text ends before the first of them."""
    repetition_penalty: float = Field(1.0, ge=LEAST, le=2)
    """Above 1 makes tokens that have already appeared less likely."""
    priority: int = Field(5, ge=0, le=9)
    """0 is the most urgent, 9 the least."""
    expires_in: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Seconds after which the job is not worth starting."""
    cache: Literal["yes", "no"] = "yes"
    """`no`: neither answer from the cache nor store there."""
    reproducible: bool = False
    """Refuse engines whose answer depends on what else is in the batch."""

    @field_validator("min_tokens")
    @classmethod
    def _at_most_max_tokens(cls, value: int, info: ValidationInfo) -> int:
        most = info.data.get("max_tokens", value)
        if value > most:
            raise PydanticCustomError(
                "out_of_range",
                "must not be larger than max_tokens ({max_tokens})",
                {"max_tokens": most},
            )
        return value

    def request(
        self,
        model: str,
        *,
        prompt: str | None = None,
        messages: list[ChatMessage] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Request:
        """The domain's request for one prompt or chat."""
        return Request(
            model=model,
            prompt=prompt,
            messages=tuple(Message(m.role, m.content) for m in messages) if messages else None,
            params=SamplingParams(
                max_tokens=self.max_tokens,
                min_tokens=self.min_tokens,
                ignore_eos=self.ignore_eos,
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=self.top_k,
                seed=self.seed,
                stop=tuple(self.stop),
                repetition_penalty=self.repetition_penalty,
            ),
            priority=self.priority,
            expires_in=self.expires_in,
            use_cache=self.cache == "yes",
            reproducible=self.reproducible,
            metadata=metadata,
        )


class Submission(Generation):
    """The body of `POST /jobs`."""

    model: str
    """The name of a registered model."""
    prompt: str | None = None
    """A single question or instruction; wrapped as a user turn if the model is a chat model."""
    messages: list[ChatMessage] | None = Field(None, min_length=1)
    """A chat, oldest turn first; instead of `prompt`."""
    metadata: Metadata | None = Field(None, max_length=MAX_METADATA_KEYS)
    """Kept with the job and given back as it is."""

    @model_validator(mode="after")
    def _one_input(self) -> Submission:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError(
                "one_input", "give either `prompt` or `messages`, and not both"
            )
        return self

    def to_request(self) -> Request:
        return self.request(
            self.model, prompt=self.prompt, messages=self.messages, metadata=self.metadata
        )


class Changes(RootModel[dict[str, Any]]):
    """The body of `POST /jobs/{id}/retry`: fields of a submission, to have other values."""

    def applied_to(self, request: Request) -> Request:
        """The request with these changes.

        Raises:
            InvalidRequest: with a problem for each field that is wrong.
        """
        fields = _as_submitted(request)
        for one, other in (("prompt", "messages"), ("messages", "prompt")):
            if one in self.root:
                fields.pop(other, None)
        body = to_json(fields | self.root, inf_nan_mode="constants")
        return parse_json(Submission, body).to_request()


class BatchSubmission(Generation):
    """The body of `POST /generate/batch`."""

    model: str
    prompts: list[str] = Field(min_length=1, max_length=1000)

    def to_requests(self) -> list[Request]:
        return [self.request(self.model, prompt=prompt) for prompt in self.prompts]


_CODES = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_field",
    "json_invalid": "invalid_json",
}
_RANGE = ("greater_than", "less_than", "too_short", "too_long", "out_of_range", "finite_number")


def parse_json(model: type[ModelT], body: bytes) -> ModelT:
    """Read a JSON body; a value of another type than the field's is refused, never converted.

    Raises:
        InvalidRequest: with a problem for each field that is wrong.
    """
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise _invalid(model, error) from error


def parse_text(model: type[ModelT], values: Mapping[str, str]) -> ModelT:
    """Read form fields or CSV cells: text is converted to each field's type.

    Raises:
        InvalidRequest: with a problem for each field that is wrong.
    """
    odd = next((name for name, text in values.items() if "\0" in text), None)
    if odd is not None:
        raise InvalidRequest.of(
            "invalid_character", f"`{odd}` must not hold NUL characters", field=odd
        )
    try:
        return model.model_validate_strings(dict(values))
    except ValidationError as error:
        raise _invalid(model, error) from error


def _as_submitted(request: Request) -> dict[str, Any]:
    """The fields of a submission that would make this request."""
    fields = {
        "model": request.model,
        "prompt": request.prompt,
        "messages": request.messages,
        **asdict(request.params),
        "priority": request.priority,
        "expires_in": request.expires_in,
        "cache": "yes" if request.use_cache else "no",
        "reproducible": request.reproducible,
        "metadata": request.metadata,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _invalid(model: type[BaseModel], error: ValidationError) -> InvalidRequest:
    details = error.errors(include_url=False, include_context=True)[:MOST_PROBLEMS]
    return InvalidRequest(*(_problem(model, detail) for detail in details))


def _problem(model: type[BaseModel], detail: ErrorDetails) -> Problem:
    kind, field = detail["type"], ".".join(str(part) for part in detail["loc"]) or None
    message = detail["msg"][0].lower() + detail["msg"][1:]
    if kind == "missing":
        message = f"`{field}` is required"
    elif kind == "extra_forbidden":
        message = f"unknown field `{field}`" + did_you_mean(
            str(detail["loc"][-1]), model.model_fields
        )
    elif kind == "json_invalid":
        message = f"the body is not valid JSON: {message}"
    elif field:
        message = f"`{field}`: {message}"
    if kind in _CODES:
        return Problem(field, _CODES[kind], message)
    of_range = any(word in kind for word in _RANGE)
    return Problem(field, "out_of_range" if of_range else "invalid_value", message)
