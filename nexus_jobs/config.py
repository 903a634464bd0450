"""Settings: `configs/nexus.toml`, then the environment (`NEXUS_SECTION__KEY`); models from YAML.

An unknown key is refused, with the nearest known one, wherever it was written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from nexus_jobs.errors import ConfigError
from nexus_jobs.models import DEVICE, Section, origin
from nexus_jobs.route import Algorithm, Route
from nexus_jobs.spelling import did_you_mean, explain
from nexus_jobs.urls import check_database, check_redis, without_passwords


class ServerSettings(Section):
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=1, le=65535)
    workers: int = Field(1, ge=1)
    """API processes."""
    one_core: bool | None = None
    """Keep each API process on a core of its own, on systems that can: its threads take turns
    anyway, and a turn that goes to another core costs several times as much. None is yes under
    `nexus up` and no elsewhere, since containers do not know of each other's cores.
    """
    threads: int = Field(160, ge=2)
    """Requests one API process serves at the same time."""
    max_waiting: int = Field(144, ge=1)
    """How many of them may hold on for a job to end; the next is answered 202 at once."""
    max_body_mb: int = Field(1024, ge=1)
    """Largest upload; larger files are refused with 413."""
    upstreams: tuple[str, ...] = ()
    """Servers, as `http://gpu1:8000`, that models may name which are registered over the API; those
    in the models file may name any.
    """

    @field_validator("upstreams")
    @classmethod
    def _urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [url for url in value if origin(url) is None]:
            raise ValueError(
                f"{without_passwords(wrong[0])!r} is no URL of a server; write http://gpu1:8000"
            )
        return value


class DatabaseSettings(Section):
    url: str | None = None
    """SQLAlchemy URL; None is SQLite in the data folder."""
    pool_size: int = Field(8, ge=1)

    @field_validator("url")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        return value and check_database(value)


class QueueSettings(Section):
    redis_url: str | None = None
    """None is the embedded Valkey that `nexus up` starts on `embedded_port`."""
    embedded_port: int = Field(6390, ge=1, le=65535)
    ticket_jobs: int = Field(32, ge=1)
    """The most jobs that one ticket stands for."""
    task_events: bool = False
    """Send an event for each step of each ticket. Flower switches this on when it starts."""

    @field_validator("redis_url")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        return value and check_redis(value)


class JobSettings(Section):
    max_attempts: int = Field(3, ge=1)
    slack_seconds: tuple[float, ...] = (0, 5, 15, 30, 60, 120, 300, 600, 900, 1800)
    """For each priority 0 to 9: the seconds within which a job should start."""
    lease_seconds: float = Field(15.0, gt=0)
    """How long a job stays with a worker that is not heard of."""
    retry_seconds: float = Field(1.0, ge=0)
    """Rest before the second attempt; doubled before each further one."""
    longest_retry_seconds: float = Field(60.0, ge=0)
    longest_run_seconds: float = Field(3600.0, gt=0)
    """A job that runs longer than this fails."""

    @property
    def heartbeat_seconds(self) -> float:
        """The time from one heartbeat to the next; two may fail before a lease lapses."""
        return self.lease_seconds / 3

    @field_validator("slack_seconds")
    @classmethod
    def _ten_rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) != 10 or list(value) != sorted(value) or value[0] < 0:
            raise ValueError("must be ten numbers of seconds, none smaller than the one before it")
        return value


class WorkerSettings(Section):
    grace_seconds: float = Field(25.0, ge=0)
    """How long running rows may go on after SIGTERM before they are handed back."""
    poll_seconds: float = Field(1.0, gt=0)
    """How often a worker with free slots looks for jobs without having had a ticket."""
    stuck_seconds: float = Field(60.0, gt=0)
    """A batch that makes no step for so long gives up its jobs; a lease later the worker ends."""
    threads: int = Field(0, ge=0)
    """CPU threads an engine may use; 0 is all cores that this process may run on."""
    device: str = Field("auto", pattern=DEVICE)
    """Where models run that name no device of their own: auto, cpu, or cuda:N."""
    memory_mb: int = Field(0, ge=0)
    """What the models of a worker may hold together; 0 is its share of 80 % of what it may use."""
    per_machine: int = Field(1, ge=1)
    """Workers that share the memory of this machine; `nexus up` counts its own."""
    max_models: int | None = Field(None, ge=1)
    """The most models that the scheduler may give a worker; None is as many as fit."""


class SchedulerSettings(Section):
    interval_seconds: float = Field(1.0, gt=0)
    """From one round of repairs, and of decisions, to the next."""
    leader_seconds: float = Field(5.0, gt=0)
    """How long another scheduler waits for the one that decides to be heard of again."""
    slo_seconds: float = Field(30.0, gt=0)
    """Within this time a model's backlog should be worked off."""
    dwell_seconds: float = Field(60.0, ge=0)
    """How long a model stays on a worker at least."""
    idle_seconds: float | None = Field(None, gt=0)
    """A model without work for so long is unloaded; None: only when its room is needed."""
    import_timeout_seconds: float = Field(120.0, gt=0)
    """A bulk import that adds no row for so long is given up."""


class CacheSettings(Section):
    redis_url: str | None = None
    """None is the queue's Redis."""
    ttl_seconds: float = Field(3600.0, ge=0)
    """How long each level keeps a result for later requests; 0 switches the cache off."""
    max_size_mb: int = Field(64, ge=0)
    """Memory for results in each API process."""

    @field_validator("redis_url")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        return value and check_redis(value, ("redis", "rediss", "unix"))


class MetricsSettings(Section):
    prometheus_port: int = Field(0, ge=0, le=65535)
    """Where a worker serves its metrics; 0 is nowhere. Several workers count up from here."""
    collection_interval: float = Field(5.0, gt=0)
    """How long the API may reuse the gauges it reads from the database, in seconds."""


class LoadBalancerSettings(Section):
    """What holds for a route that does not say otherwise."""

    algorithm: Algorithm = Algorithm.LEAST_CONNECTIONS
    """`least_loaded` and `latency` are other names of `least_connections` and `least_latency`."""
    health_check_interval: float = Field(30.0, gt=0)
    """Seconds until a target that failed too often is tried again."""
    failure_threshold: int = Field(3, ge=1)
    """After so many failures in a row a target gets no more requests."""

    @field_validator("algorithm", mode="before")
    @classmethod
    def _other_names(cls, value: Any) -> Any:
        other = {
            "least_loaded": Algorithm.LEAST_CONNECTIONS,
            "latency": Algorithm.LEAST_LATENCY,
        }
        return other.get(value, value) if isinstance(value, str) else value

    def complete(self, route: Route) -> Route:
        """The route, with these settings where it says nothing."""
        ours = {
            "algorithm": self.algorithm,
            "open_seconds": self.health_check_interval,
            "failure_threshold": self.failure_threshold,
        }
        unsaid = ours.keys() - route.model_fields_set
        return route.model_copy(update={name: ours[name] for name in unsaid})


class _Environment(EnvSettingsSource):
    """A list may stand in a variable as JSON, or with commas between."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return [one.strip() for one in str(value).split(",")]


class Settings(BaseSettings):
    """All settings; build them with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix="NEXUS_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    data_dir: Path = Path(".nexus")
    model_root: Path | None = None
    """Where pulled models lie; None is `models` in the data folder."""
    models_file: Path = Path("configs/models.yaml")

    server: ServerSettings = ServerSettings()
    database: DatabaseSettings = DatabaseSettings()
    queue: QueueSettings = QueueSettings()
    jobs: JobSettings = JobSettings()
    worker: WorkerSettings = WorkerSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    cache: CacheSettings = CacheSettings()
    metrics: MetricsSettings = MetricsSettings()
    load_balancer: LoadBalancerSettings = LoadBalancerSettings()

    @property
    def database_url(self) -> str:
        return self.database.url or f"sqlite:///{(self.data_dir / 'nexus.db').absolute()}"

    @property
    def redis_url(self) -> str:
        return self.queue.redis_url or f"redis://127.0.0.1:{self.queue.embedded_port}/0"

    @property
    def cache_redis_url(self) -> str:
        return self.cache.redis_url or self.redis_url

    @property
    def models_dir(self) -> Path:
        return (self.model_root or self.data_dir / "models").absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        environment = _Environment(settings_cls)
        return init_settings, environment, TomlConfigSettingsSource(settings_cls, _toml_file())


def _toml_file() -> Path:
    return Path(os.environ.get("NEXUS_CONFIG", "configs/nexus.toml"))


def load_settings(**overrides: Any) -> Settings:
    """Read the settings file that `NEXUS_CONFIG` names, then the environment, then `overrides`.

    Raises:
        ConfigError: a key is unknown or a value is out of range; the message says what to write.
    """
    named = os.environ.get("NEXUS_CONFIG")
    if named and not Path(named).is_file():
        raise ConfigError(f"NEXUS_CONFIG names {named}, which is not a file")
    _refuse_unknown_variables(os.environ)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigError(explain(error, Settings, "settings")) from error
    except ValueError as error:  # it cannot be parsed
        raise ConfigError(f"{_toml_file()}: {error}") from error


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {*Settings.model_fields, "config", "url"}
    for variable in environ:
        name, _, _ = variable.lower().removeprefix("nexus_").partition("__")
        if variable.upper().startswith("NEXUS_") and name not in known:
            raise ConfigError(
                f"environment variable {variable}: unknown section {name!r}"
                + did_you_mean(name, known)
            )
