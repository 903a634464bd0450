"""Builds the Flask application around the services it is given."""

from __future__ import annotations

from functools import cache
from typing import Any

import orjson
from flask import Flask, Response, request
from flask.typing import RouteCallable
from flask_swagger_ui import get_swaggerui_blueprint  # type: ignore[import-untyped]
from werkzeug.exceptions import NotFound

from api import openapi, problems
from api.ops import VERSION
from api.parsing import parse_body, parse_query, refuse_key
from api.route import API, Route
from api.routes import ROUTES
from api.schemas import Query
from nexus_jobs.bootstrap import Services

KEY_PATHS = [f"{route.method} {route.path}" for route in ROUTES if route.takes_key]


def create_app(services: Services) -> Flask:
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = services.settings.server.max_body_mb * 2**20
    problems.install(app)
    app.before_request(_refuse_nul)
    for route in ROUTES:
        view = _view(route, services)
        app.add_url_rule(route.path, route.name, view, methods=[route.method])
    _add_documentation(app)
    return app


def _refuse_nul() -> None:
    """No path has NUL characters, and databases do not take them."""
    if "\0" in request.path:
        raise NotFound


def _view(route: Route, services: Services) -> RouteCallable:
    """Parse what the table says that the route takes, and hand it to the route's function."""
    body, query, required = route.body, route.query, route.body_required
    refuses_key = route.method == "POST" and not route.takes_key

    def view(**arguments: Any) -> Response:
        if refuses_key:
            refuse_key(KEY_PATHS)
        parameters = parse_query(query)
        if query is not Query:
            arguments["query"] = parameters
        if body is not None:
            arguments["body"] = parse_body(body, required=required)
        return route.view(services, **arguments)

    return view


@cache
def _openapi_json() -> bytes:
    return orjson.dumps(openapi.document(ROUTES, VERSION))


def _openapi_document() -> Response:
    return Response(_openapi_json(), mimetype="application/json")


def _add_documentation(app: Flask) -> None:
    path = f"{API}/openapi.json"
    app.add_url_rule(path, "openapi_document", _openapi_document)
    page = {"app_name": "Nexus Jobs", "validatorUrl": None}  # the default asks a foreign server
    app.register_blueprint(get_swaggerui_blueprint(f"{API}/docs", path, config=page))
