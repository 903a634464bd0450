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
    """One thing wrong with a request: where, a stable code, and what would be right."""

    field: str | None
    code: str
    message: str


class InvalidRequest(NexusError):
    """A request that can never succeed as it is written; `problems` lists all that is wrong."""

    code = "invalid_request"

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = problems
        if len(problems) == 1:
            self.code = problems[0].code

    def __reduce__(self) -> tuple[type[InvalidRequest], tuple[Problem, ...]]:
        """It travels between processes with its problems, not with its message alone."""
        return type(self), self.problems

    @classmethod
    def of(cls, code: str, message: str, *, field: str | None = None) -> InvalidRequest:
        """A request with one thing wrong."""
        return cls(Problem(field, code, message))

    def renamed(self, field: str, name: str) -> InvalidRequest:
        """The same, where the client wrote the field under another name."""
        return InvalidRequest(
            *(
                Problem(name, each.code, each.message.replace(f"`{field}`", f"`{name}`"))
                if each.field == field
                else each
                for each in self.problems
            )
        )


class NotFound(NexusError):
    """No such thing, or not yours to see."""

    code = "not_found"


class Conflict(NexusError):
    """The thing is in a state that does not allow this."""

    code = "conflict"


class StoreUnavailable(NexusError):
    """The database did not answer, at worst between a commit and the confirmation of it.

    The same call can be tried again; with an idempotency key it does nothing twice.
    """

    code = "database_unavailable"


class QueueUnavailable(NexusError):
    """Redis did not answer. Accepted jobs are safe in the database and start a little later."""

    code = "queue_unavailable"


class NoTarget(NexusError):
    """No model of the route can take a request now, and the route says not to wait for one."""

    code = "no_target"


class EngineError(NexusError):
    """The engine failed while it was running a batch."""

    code = "engine_error"


class OutOfMemory(EngineError):
    """The batch did not fit into the memory of its device."""

    code = "out_of_memory"


class UpstreamError(NexusError):
    """The server that runs the model failed at this job, or broke off its answer."""

    code = "upstream_error"


class RanTooLong(NexusError):
    """An attempt took longer than any attempt may."""

    code = "ran_too_long"


class ModelUnavailable(NexusError):
    """The model's files are missing, damaged, or need a package that is not installed."""

    code = "model_unavailable"


class WeightsRefused(ModelUnavailable):
    """The model's files are here and must not be loaded; the message says what would be right."""

    code = "weights_refused"


class WrongRevision(WeightsRefused):
    """The weights that are here are not those of the revision that was asked for."""

    code = "wrong_revision"
