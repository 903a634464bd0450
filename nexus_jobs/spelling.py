"""Tells people what they probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final, get_args

from pydantic import BaseModel, ValidationError

from nexus_jobs.urls import without_passwords

_MAY_BE_SECRET: Final = re.compile("url|key|password|token|secret")
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
            known = _fields_at(root, item["loc"][:-1])
            message = "unknown key" + did_you_mean(str(item["loc"][-1]), known)
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


def _fields_at(root: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    model = root
    for part in location:
        if isinstance(part, int):  # a place in a list; the step before has led to its entries
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)
