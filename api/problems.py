"""Every error leaves as `application/problem+json` (RFC 9457) with a stable `code`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import structlog
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from api.rendering import json_response
from api.schemas import ProblemDetail, ProblemDocument
from nexus_jobs.errors import (
    Conflict,
    InvalidRequest,
    NexusError,
    NoTarget,
    NotFound,
    StoreUnavailable,
)

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUS: Mapping[type[NexusError], HTTPStatus] = {
    InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    NoTarget: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Errors that are not listed are our own fault: 500."""

HTTP_CODES: Mapping[int, tuple[str, str | None]] = {
    404: ("unknown_path", "nothing is at {path}; ids are UUIDs; the paths are at /api/v1/docs"),
    405: ("method_not_allowed", "{method} is not possible here; the header Allow says what is"),
    413: (
        "body_too_large",
        "the body has more than {limit} bytes, a form field more than 500 kB, or a form more than "
        "1,000 parts",
    ),
}
"""Status -> the problem's code, and a better text than the framework's."""

RETRY_AFTER_SECONDS = 2


def install(app: Flask) -> None:
    app.register_error_handler(NexusError, _nexus_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def _nexus_error(error: NexusError) -> Response:
    status = STATUS.get(type(error))
    if status is None:
        return _unexpected(error)
    if isinstance(error, InvalidRequest):
        return _invalid(error)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else {}
    return _problem(status, error.code, str(error), headers=headers)


def _invalid(error: InvalidRequest) -> Response:
    broken = error.code == "invalid_json"
    details: list[ProblemDetail] = [
        {"field": one.field, "code": one.code, "message": one.message} for one in error.problems
    ]
    status = HTTPStatus.BAD_REQUEST if broken else STATUS[InvalidRequest]
    return _problem(status, error.code, str(error), details)


def _http_error(error: HTTPException) -> Response:
    status = HTTPStatus(error.code or 500)
    code, detail = HTTP_CODES.get(status, (_snake_case(status.phrase), None))
    if detail is None:
        detail = error.description or status.description
    else:
        limit = request.max_content_length
        detail = detail.format(path=request.path[:100], method=request.method, limit=limit)
    headers = {k: v for k, v in error.get_headers() if k in ("Allow", "Retry-After")}
    return _problem(status, code, detail, headers=headers)


def _unexpected(error: Exception) -> Response:
    log.error("request failed", method=request.method, path=request.path, exc_info=error)
    detail = "something went wrong on our side; the log of the server says what"
    return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, NexusError.code, detail)


def _problem(
    status: HTTPStatus,
    code: str,
    detail: str,
    errors: Sequence[ProblemDetail] = (),
    *,
    headers: Mapping[str, str] | None = None,
) -> Response:
    document: ProblemDocument = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "errors": list(errors),
    }
    return json_response(document, status, headers, MEDIA_TYPE)


def _snake_case(phrase: str) -> str:
    return phrase.lower().replace(" ", "_").replace("-", "_")
