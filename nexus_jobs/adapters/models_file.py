"""Changes entries of the models file and leaves everything else in it as it is."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.util import load_yaml_guess_indent

from nexus_jobs.errors import ConfigError
from nexus_jobs.models import load_models


def change_model(path: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Set keys of the model `name`; a value of None takes the key out.

    Comments, order and spelling of the rest stay. The file is replaced in one go.

    Raises:
        ConfigError: the file cannot be written, or has no such model, or it would not be valid.
    """
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # no line is folded
    try:
        text = path.read_text(encoding="utf-8")
        document, sequence, offset = load_yaml_guess_indent(text, yaml=yaml)
        entry = next(model for model in document["models"] if model["name"] == name)
    except (OSError, YAMLError, KeyError, TypeError, StopIteration) as error:
        raise ConfigError(f"{path} has no model {name!r} that could be changed") from error
    _set(entry, settings)
    yaml.indent(sequence=sequence, offset=offset)
    changed = io.StringIO()
    yaml.dump(document, changed)
    _replace(path, changed.getvalue())


def _set(entry: CommentedMap, settings: Mapping[str, Any]) -> None:
    """New keys go near the name: behind the last key there may be comments on what follows."""
    before = "name"
    for key, value in settings.items():
        if value is None:
            entry.pop(key, None)
            continue
        if key in entry:
            entry[key] = value
        else:
            entry.insert(list(entry).index(before) + 1, key, value)
        before = key


def _replace(path: Path, text: str) -> None:
    """Write beside the file, check, and only then take its place."""
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.chmod(path.stat().st_mode)
        load_models(draft)
        os.replace(draft, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error
    finally:
        draft.unlink(missing_ok=True)
