"""The tokenizer of a pulled model: text to token ids and back, and its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import orjson
from jinja2 import Template, TemplateError
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from nexus_jobs.errors import InvalidRequest, ModelUnavailable
from nexus_jobs.job import Message


class FileTokenizer:
    """Reads the tokenizer/ folder of a pulled model. Safe to call from several threads."""

    def __init__(self, folder: Path) -> None:
        """Load tokenizer.json and tokenizer_config.json.

        Raises:
            ModelUnavailable: one of them is missing or cannot be read.
        """
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            config = orjson.loads((folder / "tokenizer_config.json").read_bytes())
            self._template = _compile(config.get("chat_template"))
        except Exception as error:  # `tokenizers` raises no narrower class
            raise ModelUnavailable(f"tokenizer {folder} cannot be loaded: {error}") from error
        self._special = {name: token for name, token in config.items() if name.endswith("_token")}
        self.eos_token_ids: frozenset[int] = frozenset(config["eos_token_id"])
        """The tokens that end a sequence."""
        self.context_length: int | None = config["model_max_length"]
        """The most tokens the model was made for; None if nobody has said."""

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size()

    def render(self, messages: Sequence[Message]) -> str | None:
        """The chat as the model's template writes it, or None if the model has no template.

        Raises:
            InvalidRequest: the template does not accept these messages.
        """
        if self._template is None:
            return None
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(
                messages=turns, add_generation_prompt=True, **self._special
            )
        except TemplateError as error:
            raise InvalidRequest.of(
                "invalid_messages",
                f"the model's chat template does not accept these messages: {error}",
                field="messages",
            ) from error

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the ids, without special tokens."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; here it is only read over."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _compile(source: str | None) -> Template | None:
    """A chat template in the environment that Hugging Face's templates are written for."""
    if source is None:
        return None
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _tojson(value: object) -> str:
    """Jinja's own filter escapes for HTML, which a prompt is not."""
    return orjson.dumps(value).decode()


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
