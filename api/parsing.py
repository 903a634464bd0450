"""Reads what a client sent: JSON bodies, query parameters, form fields and preferences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from flask import request
from pydantic import BaseModel, Field
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.http import parse_list_header

from api.schemas import LONGEST_WAIT
from nexus_jobs.errors import InvalidRequest
from nexus_jobs.submission import parse_json, parse_text

ModelT = TypeVar("ModelT", bound=BaseModel)

JSON_BODY_BYTES = 32 * 2**20
"""JSON is read into memory, so it may be less large than an upload."""
KEY_HEADER = "Idempotency-Key"
LONGEST_KEY = 255
KEY = re.compile(f"[ -~]{{1,{LONGEST_KEY}}}")


class _Preference(BaseModel):
    wait: int = Field(alias="Prefer: wait", ge=0, le=LONGEST_WAIT)


def parse_body(model: type[ModelT], *, required: bool = True) -> ModelT:
    """The request's JSON body; one that is not required may be missing, as if it were `{}`.

    Raises:
        InvalidRequest, UnsupportedMediaType, RequestEntityTooLarge
    """
    chunked = "Transfer-Encoding" in request.headers
    if not required and not (request.content_length or chunked or request.is_json):
        return parse_json(model, b"{}")
    if not request.is_json:
        raise UnsupportedMediaType(_send("application/json"))
    return parse_json(model, _read())


def parse_query(model: type[ModelT]) -> ModelT:
    """The query parameters; one that the path does not know is refused."""
    return parse_text(model, single(request.args))


def require_multipart() -> None:
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType(_send("multipart/form-data with the file in a part `file`"))


def preferred_wait() -> tuple[int, Mapping[str, str]]:
    """The seconds to wait by the header `Prefer: wait=S`, and the header that confirms them.

    Other preferences are ignored, as RFC 7240 wants.
    """
    for preference in parse_list_header(request.headers.get("Prefer", "")):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":  # the first one counts
            wait = parse_text(_Preference, {"Prefer: wait": value.strip(' "')}).wait
            return wait, {"Preference-Applied": f"wait={wait}"}
    return LONGEST_WAIT, {}


def idempotency_key() -> str | None:
    """The header `Idempotency-Key`, if there is one; it is never taken apart.

    Raises:
        InvalidRequest: it is empty, too long, or not printable ASCII.
    """
    given = request.headers.get(KEY_HEADER)
    if given is None:
        return None
    key = given.strip()
    if not KEY.fullmatch(key):
        message = (
            f"`{KEY_HEADER}` must be 1 to {LONGEST_KEY} printable ASCII characters that no other "
            "request has, such as a UUID"
        )
        raise InvalidRequest.of("invalid_idempotency_key", message, field=KEY_HEADER)
    return key


def refuse_key(takers: Sequence[str]) -> None:
    """For a path that makes a second job of a repeated request.

    Raises:
        InvalidRequest: there is a header `Idempotency-Key`, which would promise otherwise.
    """
    if KEY_HEADER in request.headers:
        message = f"`{KEY_HEADER}` is for {' and '.join(takers)}; send this without one"
        raise InvalidRequest.of("unexpected_idempotency_key", message, field=KEY_HEADER)


def single(values: MultiDict[str, str]) -> dict[str, str]:
    """The values by name.

    Raises:
        InvalidRequest: a name stands there more than once.
    """
    for name, given in values.lists():
        if len(given) > 1:
            message = f"`{name}` is given {len(given)} times; give it once"
            raise InvalidRequest.of("duplicate_field", message, field=name)
    return values.to_dict()


def _read() -> bytes:
    """The whole body."""
    limit = min(JSON_BODY_BYTES, request.max_content_length or JSON_BODY_BYTES)
    request.max_content_length = limit
    body = request.get_data(cache=False)
    announced = request.content_length
    if announced is None and len(body) >= limit:  # of what comes in pieces no more is read
        raise RequestEntityTooLarge
    if len(body) < (announced or 0):
        message = f"the body ends after {len(body)} of the {announced} bytes that were announced"
        raise InvalidRequest.of("invalid_json", message)
    if not body.strip():
        raise InvalidRequest.of("invalid_json", "the body is empty; send a JSON object")
    return body


def _send(expected: str) -> str:
    return f"send {expected} (the Content-Type is {request.mimetype[:100] or 'missing'})"
