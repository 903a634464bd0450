"""A model that another server runs: every row is a request to its OpenAI-compatible API."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Final

import orjson
import structlog

from nexus_jobs.adapters.engines.completions import Completions, Json, Piece, Refused
from nexus_jobs.adapters.engines.words import WordTokenizer, token_id
from nexus_jobs.engine import Progress, Tokenizer, TokenSequence
from nexus_jobs.errors import InvalidRequest, ModelUnavailable, NexusError, UpstreamError
from nexus_jobs.job import Message, SamplingParams
from nexus_jobs.models import ModelConfig

log = structlog.get_logger(__name__)

_STEP_SECONDS: Final = 0.02
"""How long a step waits for news at most; rows can join and leave only between steps."""
_CHAT: Final = "\0"
"""Begins a rendered chat; no prompt has this character."""
_BEYOND_OPENAI: Final = ("top_k", "repetition_penalty", "min_tokens", "ignore_eos")
"""What vLLM and others take besides OpenAI's own parameters; sent only where it is asked for."""

_PLAIN: Final = SamplingParams()
_TRIAL: Final = TokenSequence("trial", (token_id("Hello"),), SamplingParams(max_tokens=1))


class ChatTokenizer(WordTokenizer):
    """Leaves templates and tokens to the server. What it counts are words."""

    def render(self, messages: Sequence[Message]) -> str | None:
        return _CHAT + orjson.dumps(messages).decode()


class UpstreamEngine:
    """Its rows run side by side on a thread of its own; a step gathers what came of them.

    A server that cannot be reached, or refuses whatever it is asked, is a dead engine. One that is
    too busy is asked again for as long as the row may run.
    """

    reproducible = False
    bounds_prefill = True
    device = "upstream"
    pid = None
    spare_seconds = 0.0

    def __init__(self, config: ModelConfig) -> None:
        """
        Raises:
            ModelUnavailable: the server does not answer, refuses the key or has no such model.
        """
        self.slots = config.max_batch_size
        self.max_sequence_length = config.max_sequence_length
        self.tokenizer: Tokenizer = ChatTokenizer()
        self._chats = config.preprocessing.chat_template
        self._news: SimpleQueue[Progress | ModelUnavailable] = SimpleQueue()
        self._rows: dict[str, Future[None]] = {}
        self._server = Completions(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream", daemon=True)
        self._thread.start()
        try:
            served = asyncio.run_coroutine_threadsafe(self._server.find_model(), self._loop)
            self.name = f"{served.result()} at {config.path}"
        except BaseException:
            self.close()
            raise

    def admit(self, sequences: Sequence[TokenSequence]) -> None:
        for row in sequences:
            self._rows[row.id] = asyncio.run_coroutine_threadsafe(self._run(row), self._loop)

    def step(self) -> list[Progress]:
        """What came since the last step, after a short wait if that is nothing."""
        progress: dict[str, Progress] = {}
        try:
            news = self._news.get(timeout=_STEP_SECONDS if self._rows else 0.0)
            while True:
                if isinstance(news, ModelUnavailable):
                    raise news
                if news.sequence_id in self._rows:
                    before = progress.get(news.sequence_id)
                    progress[news.sequence_id] = _joined(before, news) if before else news
                news = self._news.get_nowait()
        except Empty:
            pass
        for row in progress.values():
            if row.is_last:
                del self._rows[row.sequence_id]
        return list(progress.values())

    def evict(self, sequence_id: str) -> None:
        """Hang up, at which servers stop generating."""
        task = self._rows.pop(sequence_id, None)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        self._rows.clear()
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _hang_up(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.close()

    async def _run(self, row: TokenSequence) -> None:
        try:
            await self._answer(row)
        except ModelUnavailable as error:
            self._news.put(error)
        except NexusError as error:
            self._news.put(Progress(row.id, (), error=error))
        except Exception as error:  # it would be lost with the task
            log.exception("upstream.failed", url=self._server.url)
            self._news.put(Progress(row.id, (), error=UpstreamError(type(error).__name__)))

    async def _answer(self, row: TokenSequence) -> None:
        try:
            async for piece in self._pieces(row):
                self._news.put(_progress(row.id, piece))
        except Refused as error:
            if await self._refuses_a_trial():
                raise ModelUnavailable(str(error)) from error
            raise

    async def _refuses_a_trial(self) -> bool:
        """Whether the server refuses what nobody could object to, and so would any row."""
        try:
            async for _ in self._pieces(_TRIAL):
                pass
        except Refused:
            return True
        except (UpstreamError, InvalidRequest):  # whatever ails it, it did not refuse
            return False
        return False

    def _pieces(self, row: TokenSequence) -> AsyncIterator[Piece]:
        text, parameters = self.tokenizer.decode(row.prompt), _parameters(row.params)
        if text.startswith(_CHAT):
            return self._server.chat(orjson.loads(text.removeprefix(_CHAT)), parameters)
        if self._chats:  # only a trial comes without its turns
            return self._server.chat([{"role": "user", "content": text}], parameters)
        return self._server.complete(text, parameters)


def _progress(sequence_id: str, piece: Piece) -> Progress:
    tokens = (token_id(piece.text),) if piece.text else ()
    return Progress(sequence_id, tokens, piece.finish_reason, piece.usage)


def _joined(first: Progress, then: Progress) -> Progress:
    return Progress(
        first.sequence_id,
        (*first.token_ids, *then.token_ids),
        then.finish_reason,
        then.usage,
        then.error,
    )


def _parameters(params: SamplingParams) -> Json:
    """The row's parameters in OpenAI's words, with what goes beyond them only where it is used."""
    said: Json = {"max_tokens": params.max_tokens, "temperature": params.temperature}
    if params.top_p < 1:
        said["top_p"] = params.top_p
    if params.seed is not None:
        said["seed"] = params.seed
    if params.stop and not params.min_tokens:  # which stop strings must not cut short
        said["stop"] = params.stop
    beyond = {name: getattr(params, name) for name in _BEYOND_OPENAI}
    said |= {name: value for name, value in beyond.items() if value != getattr(_PLAIN, name)}
    if "repetition_penalty" in said:
        said["repeat_penalty"] = params.repetition_penalty  # llama.cpp's word
    return said
