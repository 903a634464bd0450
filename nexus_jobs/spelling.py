"""Tells people what they probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import get_args

from pydantic import BaseModel, ValidationError


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
            message = f"{item['msg']} (got {item['input']!r})"
        lines.append(f"{where}: {key}: {message}")
    return "\n".join(lines)


def _fields_at(root: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    model = root
    for part in location:
        if isinstance(part, int):  # a place in a list; the step before has led to its entries
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)
