"""Writes the OpenAPI 3.1 document from the route table and the types that it names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from api.parsing import KEY, KEY_HEADER
from api.problems import MEDIA_TYPE
from api.routes import Route
from api.schemas import LONGEST_WAIT, ProblemDocument
from nexus_jobs.intake import KEY_SECONDS

Schema = dict[str, Any]
Direction = Literal["validation", "serialization"]

REFERENCE = "#/components/schemas/{model}"
ARGUMENT = re.compile(r"<(uuid:)?(\w+)>")

PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": f"`wait=S`: the most seconds to wait, 0 to {LONGEST_WAIT} (RFC 7240)",
    "schema": {"type": "string", "pattern": r"wait=\d+", "default": f"wait={LONGEST_WAIT}"},
}

IDEMPOTENCY_KEY = {
    "name": KEY_HEADER,
    "in": "header",
    "description": "Makes it safe to send the request again: the same body with the same key gives "
    "the same job, with `Idempotency-Replayed: true`, and another body is refused; for "
    f"{KEY_SECONDS / 3600:.0f} hours",
    "schema": {"type": "string", "pattern": f"^{KEY.pattern}$"},
}


def document(routes: Sequence[Route], version: str) -> Schema:
    shapes, components = _shapes(routes)
    paths: dict[str, Schema] = {}
    for route in routes:
        path = ARGUMENT.sub(r"{\2}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, shapes)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Nexus Jobs", "version": version},
        "paths": paths,
        "components": components,
    }


def _shapes(routes: Sequence[Route]) -> tuple[Mapping[type, Schema], Schema]:
    """A reference for each type of the table, and the schemas that they refer to."""
    received = {t for route in routes for t in (route.body, route.form) if t}
    sent = {t for route in routes for t in route.answers.values() if isinstance(t, type)}
    inputs: list[tuple[type, Direction, TypeAdapter[Any]]] = [
        *((t, "validation", TypeAdapter(t)) for t in _by_name(received)),
        *((t, "serialization", TypeAdapter(t)) for t in _by_name(sent | {ProblemDocument})),
    ]
    schemas, definitions = TypeAdapter.json_schemas(inputs, ref_template=REFERENCE)
    return {key: schema for (key, _), schema in schemas.items()}, {"schemas": definitions["$defs"]}


def _by_name(types: Iterable[type]) -> list[type]:
    return sorted(types, key=lambda t: t.__name__)


def _operation(route: Route, shapes: Mapping[type, Schema]) -> Schema:
    operation: Schema = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": [*_path_parameters(route.path), *_query_parameters(route.query)],
        "responses": {
            str(status): {
                "description": HTTPStatus(status).phrase,
                "content": _content(answer, shapes),
            }
            for status, answer in route.answers.items()
        },
    }
    operation["responses"]["default"] = {
        "description": "A problem",
        "content": {MEDIA_TYPE: {"schema": shapes[ProblemDocument]}},
    }
    if route.prefers_wait:
        operation["parameters"].append(PREFER)
    if route.takes_key:
        operation["parameters"].append(IDEMPOTENCY_KEY)
    if received := _received(route, shapes):
        operation["requestBody"] = {"required": route.body_required, "content": received}
    return operation


def _received(route: Route, shapes: Mapping[type, Schema]) -> Schema:
    if route.body:
        return {"application/json": {"schema": shapes[route.body]}}
    if route.form:
        return {"multipart/form-data": {"schema": shapes[route.form]}}
    return {}


def _content(answer: Any, shapes: Mapping[type, Schema]) -> Schema:
    if isinstance(answer, tuple):
        return {media_type: {"schema": {"type": "string"}} for media_type in answer}
    return {"application/json": {"schema": shapes[answer]}}


def _path_parameters(path: str) -> list[Schema]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "format": "uuid"} if is_id else {"type": "string"},
        }
        for is_id, name in ARGUMENT.findall(path)
    ]


def _query_parameters(query: type[BaseModel]) -> list[Schema]:
    properties = query.model_json_schema(ref_template=REFERENCE).get("properties", {})
    return [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]
