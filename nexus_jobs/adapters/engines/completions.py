"""A client of OpenAI's API, as vLLM, llama.cpp, TGI and others serve it: streamed completions."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import httpx
import orjson
import structlog
from httpx_sse import SSEError, aconnect_sse

from nexus_jobs.adapters.loopback import DIRECT
from nexus_jobs.engine import Usage
from nexus_jobs.errors import InvalidRequest, ModelUnavailable, UpstreamError
from nexus_jobs.job import FinishReason
from nexus_jobs.models import ModelConfig
from nexus_jobs.retry import RetryPolicy

log = structlog.get_logger(__name__)

Json = dict[str, Any]

_CONNECT_SECONDS: Final = 5.0
_WHEN_BUSY: Final = RetryPolicy(first=0.5, longest=15.0)
_LONGEST_MESSAGE: Final = 300

_FINISH: Final = {"length": FinishReason.LENGTH}
_BUSY: Final = {429, 503}
_INVALID: Final = {400, 413, 422}
_MOST_TOKENS: Final = 2**31 - 1
"""What the database can hold."""
_REFUSED: Final = {401, 403, 404, 405}


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer; how it ended, and what was used, is told behind its text."""

    text: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


class Refused(UpstreamError):
    """The server will not do this: it may be this request alone, or whatever it is asked."""


class _Busy(Exception):
    """The server wants to be asked again later."""

    def __init__(self, reason: str, retry_after: str) -> None:
        super().__init__(reason)
        self.seconds = float(retry_after) if retry_after.isdecimal() else 0.0


class Completions:
    """The model of a server. All methods belong on one event loop.

    Those that talk to the server raise ModelUnavailable if it cannot be reached, and wait while it
    is busy.

    Raises:
        ModelUnavailable: there is no key where it should be.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.url = config.path
        self._options = config.upstream
        self._our_name = config.name
        self._model = ""
        self._http = httpx.AsyncClient(
            base_url=config.path,
            headers=_authorization(config),
            timeout=httpx.Timeout(
                config.upstream.silence_seconds, connect=_CONNECT_SECONDS, pool=None
            ),
            limits=httpx.Limits(max_keepalive_connections=config.max_batch_size),
            mounts=DIRECT,
        )

    async def find_model(self) -> str:
        """Look for the model among those of the server, and return the name that it has there.

        Raises:
            ModelUnavailable: it is not there, or the server does not let us look.
        """
        listed = await self._listed()
        meant = self._options.model
        if listed is not None:
            meant = meant or (listed[0] if len(listed) == 1 else self._our_name)
        if meant is None or (listed is not None and meant not in listed):
            there = ", ".join(listed) if listed else "none that it would list"
            raise ModelUnavailable(
                f"{self.url} has no model {meant or self._our_name!r} but {there}; "
                "say which one you mean in upstream.model"
            )
        self._model = meant
        return meant

    async def _listed(self) -> list[str] | None:
        """The models that the server names; None if it does not list them."""
        with _failures(self.url):
            answer = await self._http.get("models")
            if answer.status_code in (404, 405):
                return None
            if answer.status_code != 200:
                raise ModelUnavailable(_told(self.url, answer))
            return [str(model["id"]) for model in orjson.loads(answer.content)["data"]]

    def chat(self, messages: Sequence[Json], parameters: Json) -> AsyncIterator[Piece]:
        """The answer to a chat.

        Raises:
            InvalidRequest: the server does not take it.
            Refused: it must not, or knows no such thing.
            UpstreamError: it failed, or broke off its answer.
        """
        return self._pieces("chat/completions", {"messages": messages, **parameters})

    def complete(self, prompt: str, parameters: Json) -> AsyncIterator[Piece]:
        """What follows after a prompt, as it is. Raises what `chat` does."""
        return self._pieces("completions", {"prompt": prompt, **parameters})

    async def close(self) -> None:
        await self._http.aclose()

    async def _pieces(self, path: str, body: Json) -> AsyncIterator[Piece]:
        streaming = {"stream": True, "stream_options": {"include_usage": True}}
        body = {"model": self._model, **streaming, **body}
        finish, usage = None, None
        async for piece in self._once_not_busy(path, body):
            finish, usage = piece.finish_reason or finish, piece.usage or usage
            if piece.text:
                yield Piece(piece.text)
        if finish is None:
            raise UpstreamError(f"{self.url} broke off its answer")
        yield Piece("", finish, usage)

    async def _once_not_busy(self, path: str, body: Json) -> AsyncIterator[Piece]:
        for tries in count(1):
            try:
                with _failures(self.url):
                    async for piece in self._stream(path, body):
                        yield piece
            except _Busy as busy:
                rest = busy.seconds or _WHEN_BUSY.rest(tries, random.random())  # noqa: S311
                log.info("upstream.busy", url=self.url, seconds=rest, reason=str(busy))
                await asyncio.sleep(min(rest, _WHEN_BUSY.longest))
            else:
                return

    async def _stream(self, path: str, body: Json) -> AsyncIterator[Piece]:
        async with aconnect_sse(self._http, "POST", path, json=body) as events:
            await self._check(events.response)
            async for event in events.aiter_sse():
                if event.data == "[DONE]":
                    return
                chunk = orjson.loads(event.data)
                if "error" in chunk:
                    raise UpstreamError(f"{self.url} broke off its answer: {_message(event.data)}")
                yield _piece(chunk)

    async def _check(self, answer: httpx.Response) -> None:
        if answer.status_code == 200:
            return
        await answer.aread()
        told = _told(self.url, answer)
        if answer.status_code in _BUSY:
            raise _Busy(told, answer.headers.get("Retry-After", ""))
        if answer.status_code in _INVALID:
            raise InvalidRequest.of("refused_upstream", told)
        if answer.status_code in _REFUSED:
            raise Refused(told)
        raise UpstreamError(told)


@contextmanager
def _failures(url: str) -> Iterator[None]:
    """Whatever httpx and the parsers raise, as one of our errors."""
    try:
        yield
    except (SSEError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UpstreamError(f"{url} does not speak OpenAI's API: {error}") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ModelUnavailable(f"{url} cannot be reached: {error}") from error
    except httpx.ReadTimeout as error:
        raise UpstreamError(f"{url} has fallen silent") from error
    except httpx.HTTPError as error:
        raise UpstreamError(
            f"{url} broke off its answer: {str(error) or type(error).__name__}"
        ) from error


def _authorization(config: ModelConfig) -> dict[str, str]:
    variable = config.upstream.key_env
    if variable is None:
        return {}
    if variable not in os.environ:
        raise ModelUnavailable(
            f"model {config.name}: the key of {config.path} is expected in the environment "
            f"variable {variable}, which is not set"
        )
    return {"Authorization": f"Bearer {os.environ[variable]}"}


def _piece(chunk: Json) -> Piece:
    """What a chunk tells; one that only tells the usage has no choice."""
    [choice] = chunk["choices"] or [{}]
    finish = choice.get("finish_reason")
    return Piece(
        choice.get("text") or (choice.get("delta") or {}).get("content") or "",
        _FINISH.get(finish, FinishReason.STOP) if finish else None,
        _usage(chunk.get("usage")),
    )


def _usage(told: Any) -> Usage | None:
    """What the server has counted; None if that cannot be, for then we count ourselves."""
    if not isinstance(told, dict):
        return None
    counts: list[Any] = [told.get("prompt_tokens"), told.get("completion_tokens")]
    if all(type(count) is int and 0 <= count <= _MOST_TOKENS for count in counts):
        return Usage(*counts)
    return None


def _told(url: str, answer: httpx.Response) -> str:
    return f"{url} answers {answer.status_code}: {_message(answer.text)}"


def _message(text: str) -> str:
    """What an error's document says, in the forms of OpenAI, FastAPI and others."""
    try:
        document = orjson.loads(text)
        error = document.get("error") or document.get("detail") or document["message"]
        said = error["message"] if isinstance(error, dict) else error
    except (ValueError, LookupError, TypeError, AttributeError):
        said = text
    return str(said).strip()[:_LONGEST_MESSAGE] or "nothing"
