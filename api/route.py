"""What the table of paths is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Response
from pydantic import BaseModel

from api.schemas import Query

API = "/api/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path.

    `view` gets the services, the path's arguments, and as `body` and `query` what was parsed to
    those models. `answers` gives for each status the shape of the JSON, the media types of text,
    or None for an empty body.
    A POST that does not take an `Idempotency-Key` refuses one.
    """

    name: str
    method: str
    path: str
    view: Callable[..., Response]
    summary: str
    answers: Mapping[int, Any]
    body: type[BaseModel] | None = None
    body_required: bool = True
    form: type[BaseModel] | None = None
    query: type[Query] = Query
    prefers_wait: bool = False
    takes_key: bool = False
