"""Copies the tokenizer of a Hugging Face or ONNX folder into the form `FileTokenizer` reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson

from nexus_jobs.errors import ModelUnavailable

_UNBOUNDED = 10**9
"""Some tokenizers call their length 1e30 when nobody has said what it is."""


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Write tokenizer.json and one tokenizer_config.json with all that is known into `target`.

    Raises:
        ModelUnavailable: `folder` has no tokenizer.json, or a file in it cannot be read.
    """
    if not (folder / "tokenizer.json").is_file():
        raise ModelUnavailable(
            f"{folder} has no tokenizer.json; save it with transformers: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "tokenizer.json", target / "tokenizer.json")
    (target / "tokenizer_config.json").write_bytes(orjson.dumps(_config(folder)))


def stored_precision(folder: Path) -> str | None:
    """How the folder's configuration says that its weights are stored: `bfloat16`."""
    config = _read(folder, "config.json")
    return config.get("dtype") or config.get("torch_dtype")


def _config(folder: Path) -> dict[str, Any]:
    written = _read(folder, "tokenizer_config.json")
    model = _read(folder, "genai_config.json").get("model", {}) | _read(folder, "config.json")
    ends = _read(folder, "generation_config.json").get("eos_token_id", model.get("eos_token_id"))
    lengths = [
        written.get("model_max_length"),
        model.get("max_position_embeddings"),
        model.get("context_length"),
    ]
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    return {
        **{name: _text(written[name]) for name in names if written.get(name)},
        "eos_token_id": [ends] if isinstance(ends, int) else ends or [],
        "model_max_length": min((n for n in lengths if n and n < _UNBOUNDED), default=None),
        "chat_template": _chat_template(folder, written.get("chat_template")),
    }


def _chat_template(folder: Path, written: Any) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if isinstance(written, list):
        named = {entry["name"]: entry["template"] for entry in written}
        written = named.get("default")
    return written if isinstance(written, str) else None


def _text(token: Any) -> str:
    """A special token is written as a string, or as an object that has it as `content`."""
    return str(token["content"] if isinstance(token, dict) else token)


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        document = orjson.loads((folder / name).read_bytes())
    except FileNotFoundError:
        return {}
    except orjson.JSONDecodeError as error:
        raise ModelUnavailable(f"{folder / name} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ModelUnavailable(f"{folder / name} is not a JSON object")
    return document
