"""What a model is: an entry of `configs/models.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from nexus_jobs.errors import ConfigError
from nexus_jobs.spelling import did_you_mean, explain

MODEL_NAME = r"^[a-z0-9][a-z0-9._-]{0,99}$"
"""Model names end up in queue names, file names and URLs."""
DEVICE = r"^(auto|cpu|cuda:\d+)$"
REVISION = r"^(sha256:[0-9a-f]{64}|[0-9a-f]{40})$"


MOST: Final = 10**9
"""Of any number in a section."""


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @classmethod
    def stored(cls, document: object) -> Self:
        """One that was stored, perhaps by a newer version: what that added is left out."""
        return cls.model_validate(document, extra="ignore")

    @field_validator("*")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        """Neither what databases do not take nor numbers that nobody means."""
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, str) and "\0" in one:
                raise ValueError("NUL characters cannot be stored")
            if isinstance(one, (int, float)) and one > MOST:
                raise PydanticCustomError(
                    "out_of_range", "input should be at most {most}", {"most": MOST}
                )
        return value


class Named(Section):
    name: str = Field(pattern=MODEL_NAME)


EntryT = TypeVar("EntryT", bound=Named)


class Preprocessing(Section):
    chat_template: bool = True
    """Wrap a plain `prompt` as one user turn, where the model has a chat template."""
    system_prompt: str | None = None
    """Put before a chat that has no system turn of its own."""


class SimulatedTimes(Section):
    """Milliseconds the simulated engine takes: per prompt token, per step, per step and row; and
    what goes wrong with it."""

    prefill_ms: float = Field(0.0, ge=0)
    step_ms: float = Field(0.0, ge=0)
    step_ms_per_row: float = Field(0.0, ge=0)
    memory_rows: int | None = Field(None, ge=1)
    """A batch of more rows runs out of memory."""
    poison: str | None = None
    """A prompt with this word makes every step of its batch fail."""
    deadly: str | None = None
    """A prompt with this word kills the process that runs it."""


class Upstream(Section):
    """How to talk to a server that runs the model and speaks OpenAI's API."""

    model: str | None = None
    """What the server calls it; None is the only one it lists, or else the one of our name."""
    key_env: str | None = Field(None, pattern=r"^[A-Z][A-Z0-9_]*_(KEY|TOKEN)$")
    """The environment variable, where workers run, that holds the key; keys are never stored."""
    silence_seconds: float = Field(120.0, gt=0)
    """An answer of which nothing comes for so long is given up."""


EngineType = Literal["auto", "openvino", "onnx", "huggingface", "simulated", "upstream"]
Precision = Literal["int4", "int8", "fp16", "bf16", "fp32"]


class ModelConfig(Named):
    """One entry of `configs/models.yaml`."""

    type: EngineType = "auto"
    path: str = Field("", validate_default=True)
    """A pulled model's name, or a folder under the model root; the model's own name if empty. For
    type upstream the server's URL: `http://127.0.0.1:8000/v1`.
    """
    revision: str | None = Field(None, pattern=REVISION)
    """The weights that are meant: the commit that was pulled of a hub's model, or `sha256:` and
    the SHA-256 of the weights. That of several files is the SHA-256 of what `sha256sum` prints of
    them, by name, run in their folder. Others are not loaded. None is whatever is here.
    """
    device: str = Field("auto", pattern=DEVICE)
    precision: Precision | None = None
    """None is the engine's own default: the file as it is for openvino, int8 for onnx, and for
    huggingface fp32 on a CPU and bf16 on CUDA.
    """
    max_batch_size: int = Field(16, ge=1, le=4096)
    """Slots of a batch on one worker."""
    max_wait_ms: float = Field(0.0, ge=0)
    """How long an idle worker waits for more jobs before it starts a batch."""
    target_latency_ms: float | None = Field(None, gt=0)
    """Within how long a job that was submitted by itself should end, from submission to answer.
    The worker sets size and wait of the batch for it, up to `max_batch_size` and `max_wait_ms`;
    rows of bulks get the room that is left. No job is refused for being late.
    """
    max_batch_tokens: int | None = Field(None, ge=1)
    """Prompt tokens that a step takes in beside the rows that run; None is the engine's choice."""
    max_sequence_length: int = Field(2048, ge=8)
    """Prompt and answer together, in tokens."""
    min_workers: int = Field(0, ge=0)
    """Workers that serve it at least, whether there is work or not."""
    max_workers: int | None = Field(None, ge=1)
    pinned_to: tuple[str, ...] = ()
    """Workers that always serve it, by name: `w1`, or `w1@host`."""
    warmup: bool = True
    """Run prompts in batches of growing size, so that the first job meets a warm engine."""
    reproducible: bool = False
    """Use only engines whose answer does not depend on who shares the batch."""
    health_check_interval: float = Field(60.0, gt=0)
    """After so many seconds without a job, see whether the engine still generates something; if it
    does not, it is loaded anew.
    """
    preprocessing: Preprocessing = Preprocessing()
    simulated: SimulatedTimes = SimulatedTimes()
    upstream: Upstream = Upstream()

    @field_validator("path")
    @classmethod
    def _upstream_has_a_url(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("type") == "upstream" and origin(value) is None:
            raise ValueError("type upstream needs the URL of its server: http://127.0.0.1:8000/v1")
        return value

    @field_validator("max_workers")
    @classmethod
    def _not_fewer_than_min(cls, value: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("min_workers", 0)
        if value is not None and value < least:
            raise PydanticCustomError(
                "out_of_range", "must not be less than min_workers ({least})", {"least": least}
            )
        return value

    @property
    def is_reproducible(self) -> bool:
        """Whether every engine this model may get answers the same alone and in company."""
        return self.reproducible or self.type in ("onnx", "huggingface", "simulated")

    @property
    def has_weights(self) -> bool:
        """Whether it needs files under the model root."""
        return self.type not in ("simulated", "upstream")

    @property
    def source(self) -> str:
        """The pulled name or folder that the weights come from."""
        return self.path or self.name


def origin(url: str) -> str | None:
    """Scheme, host and port of an HTTP URL, without which it is None; so is one with a password."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    if port is None or not parts.hostname or parts.username is not None:
        return None
    return f"{parts.scheme}://{parts.hostname}:{port}"


_LISTS: Final = ("models", "routes")
"""The keys of the file."""


def load_models(path: Path) -> list[ModelConfig]:
    """Read the models a YAML file lists under `models:`.

    Raises:
        ConfigError: the file is missing or not of that form, or a name stands twice.
    """
    return load_entries(path, "models", ModelConfig)


def load_entries(
    path: Path, key: str, kind: type[EntryT], default: Sequence[object] | None = None
) -> list[EntryT]:
    """Read what a YAML file lists under a key, which may be missing if there is a default.

    Raises:
        ConfigError: the file is missing or not of that form, or a name or a key stands twice.
    """
    document = _read(path)
    entries = document if isinstance(document, dict) else {}
    for unknown in entries.keys() - {*_LISTS}:
        raise ConfigError(f"{path}: unknown key {unknown!r}" + did_you_mean(str(unknown), _LISTS))
    listed = entries.get(key, default)
    if not isinstance(listed, list):
        raise ConfigError(f"{path}: expected a list under the key `{key}`")
    what = key.removesuffix("s")
    read = [_entry(path, what, kind, entry) for entry in listed]
    names = [entry.name for entry in read]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: {what} {name!r} stands there {names.count(name)} times")
    return read


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML takes the last and says nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return node


def _read(path: Path) -> object:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a safe one
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist; say where the models file is with NEXUS_MODELS_FILE"
        ) from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{path}: {line}{error.problem}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _entry(path: Path, what: str, kind: type[EntryT], entry: object) -> EntryT:
    try:
        return kind.model_validate(entry)
    except ValidationError as error:
        name = entry.get("name", "?") if isinstance(entry, dict) else "?"
        raise ConfigError(explain(error, kind, f"{path}: {what} {name}")) from error
