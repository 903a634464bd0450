"""Tells people what they probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

from nexus_jobs.urls import without_passwords

_MAY_BE_SECRET: Final = re.compile(r"url|key|password|token(?!s)|secret")
_SHORT: Final = 100


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to put behind an error message; empty if nothing is near."""
    matches = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def explain(error: ValidationError, root: type[BaseModel], where: str) -> str:
    """A line for each value or key of a document that `root` refuses, with what would be right."""
    lines = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            message = "unknown key" + _where_to(str(item["loc"][-1]), root, item["loc"][:-1])
        else:
            message = item["msg"].removeprefix("Value error, ") + _got(key, item["input"])
        lines.append(f"{where}: {key}: {message}")
    return "\n".join(lines)


def _got(key: str, value: object) -> str:
    """What was written there, if it is short and cannot be a secret."""
    if isinstance(value, dict | list | tuple) or _MAY_BE_SECRET.search(key):
        return ""
    text = without_passwords(repr(value))
    return f" (got {text})" if len(text) <= _SHORT else f" (got {text[:_SHORT]}...)"


def _where_to(word: str, root: type[BaseModel], location: Sequence[int | str]) -> str:
    """Where a key belongs that was written at the wrong place, or else what it may have meant."""
    if places := list(_places(word, root)):
        return f"; there is {' or '.join(places)}"
    return did_you_mean(word, _model_at(root, location).model_fields)


def _places(word: str, model: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if name == word:
            yield path + name
        if (inner := _model_in(field.annotation)) is not None:
            yield from _places(word, inner, f"{path}{name}.")


def _model_at(root: type[BaseModel], location: Iterable[int | str]) -> type[BaseModel]:
    model = root
    for part in location:
        if isinstance(part, int):  # a place in a list; the step before has led to its entries
            continue
        model = _model_in(model.model_fields[part].annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, or holds a list of, or may hold."""
    candidates = [annotation, *get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
