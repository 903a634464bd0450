"""Bulks: a file of prompts in, its state, and the file of answers out."""

from __future__ import annotations

from pathlib import PurePath
from urllib.parse import quote
from uuid import UUID

from flask import Response, request, url_for
from werkzeug.datastructures import FileStorage, Headers
from werkzeug.utils import secure_filename

from api.parsing import require_multipart, single
from api.rendering import bulk_document, json_response
from api.schemas import BulkForm
from nexus_jobs.bootstrap import Services
from nexus_jobs.errors import InvalidRequest, Problem
from nexus_jobs.spelling import did_you_mean
from nexus_jobs.submission import parse_text

CSV = "text/csv"
JSONL = "application/x-ndjson"
JSONL_TOO = "application/jsonl"


def submit(services: Services) -> Response:
    require_multipart()
    fields = single(request.form)
    file = _file()
    form = parse_text(BulkForm, fields)
    bulk = services.bulks.submit_file(
        file.stream,
        filename="".join(filter(str.isprintable, file.filename or "")),
        model=form.model,
        prompt_column=form.prompt_column,
        defaults={k: v for k, v in fields.items() if k not in ("model", "prompt_column")},
    )
    location = url_for("show_bulk", bulk_id=bulk.id)
    document = bulk_document(services.bulks.status(bulk.id))
    return json_response(document, 202, {"Location": location})


def show(services: Services, bulk_id: UUID) -> Response:
    return json_response(bulk_document(services.bulks.status(str(bulk_id))))


def cancel(services: Services, bulk_id: UUID) -> Response:
    return json_response(bulk_document(services.bulks.cancel(str(bulk_id))))


def retry(services: Services, bulk_id: UUID) -> Response:
    return json_response(bulk_document(services.bulks.retry(str(bulk_id))), 202)


def output(services: Services, bulk_id: UUID) -> Response:
    # Asked for first, so that an unknown bulk is a 404 and not a broken download.
    bulk = services.bulks.status(str(bulk_id)).bulk
    wanted = request.accept_mimetypes.best_match([CSV, JSONL, JSONL_TOO], default=CSV)
    as_csv = wanted == CSV
    export = services.bulks.export_csv if as_csv else services.bulks.export_jsonl
    content_type = f"{CSV}; charset=utf-8" if as_csv else wanted
    name = f"{PurePath(bulk.filename).stem or 'bulk'}.output.{'csv' if as_csv else 'jsonl'}"
    return Response(export(bulk.id), headers=_attachment(name), content_type=content_type)


def _attachment(name: str) -> Headers:
    """The header that makes a download: a name for old clients and the true one (RFC 6266)."""
    names = {"filename": secure_filename(name), "filename*": f"UTF-8''{quote(name, safe='')}"}
    headers = Headers()
    headers.set("Content-Disposition", "attachment", **names)
    return headers


def _file() -> FileStorage:
    """The one uploaded file.

    Raises:
        InvalidRequest: it is missing, has no name, or is not alone.
    """
    if "file" in request.form:
        message = "`file` came as text without a filename; with curl write -F file=@prompts.csv"
        raise InvalidRequest.of("invalid_value", message, field="file")
    strangers = [name for name in request.files if name != "file"]
    if strangers:
        raise InvalidRequest(*(_unexpected(name) for name in strangers))
    files = request.files.getlist("file")
    if len(files) > 1:
        message = f"{len(files)} files came; send one bulk for each"
        raise InvalidRequest.of("duplicate_field", message, field="file")
    if not files:
        message = "`file` is required: a CSV file as a multipart part of that name"
        raise InvalidRequest.of("missing_field", message, field="file")
    if not files[0].filename:
        raise InvalidRequest.of("missing_field", "no file was chosen for `file`", field="file")
    return files[0]


def _unexpected(name: str) -> Problem:
    hint = did_you_mean(name, ["file"]) or "; the file goes into `file`"
    return Problem(name, "unknown_field", f"unexpected file part `{name}`{hint}")
