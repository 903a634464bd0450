"""Everything that can go wrong, each with a stable `code` that clients may rely on."""

from __future__ import annotations

from dataclasses import dataclass


class NexusError(Exception):
    """Base of all errors raised on purpose; `code` never changes once released."""

    code = "internal_error"


class ConfigError(NexusError):
    """The settings cannot be used; the message names the key and what would be right."""

    code = "invalid_config"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a request: the field, and what would be right."""

    field: str | None
    message: str
    code: str


class InvalidRequest(NexusError):
    """A request that can never succeed as it is written."""

    code = "invalid_request"

    def __init__(self, message: str, *, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        if code is not None:
            self.code = code

    @property
    def problem(self) -> Problem:
        return Problem(self.field, str(self), self.code)


class NotFound(NexusError):
    """No such thing, or not yours to see."""

    code = "not_found"


class Conflict(NexusError):
    """The thing is in a state that does not allow this."""

    code = "conflict"


class StoreUnavailable(NexusError):
    """The database did not answer. Nothing was accepted; the same call can be tried again."""

    code = "database_unavailable"


class QueueUnavailable(NexusError):
    """Redis did not answer. Accepted jobs are safe in the database and start a little later."""

    code = "queue_unavailable"


class EngineError(NexusError):
    """The engine failed while it was running a batch."""

    code = "engine_error"


class ModelUnavailable(NexusError):
    """The model's files are missing, damaged, or need a package that is not installed."""

    code = "model_unavailable"
