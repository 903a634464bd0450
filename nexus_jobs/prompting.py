"""From what a person wrote to the token ids a model reads."""

from __future__ import annotations

from collections.abc import Sequence

from nexus_jobs.engine import Tokenizer
from nexus_jobs.errors import InvalidRequest
from nexus_jobs.job import Message, Request
from nexus_jobs.models import ModelConfig


def prompt_ids(
    request: Request, model: ModelConfig, tokenizer: Tokenizer, longest: int
) -> list[int]:
    """The prompt as token ids, in the model's chat template where it has one.

    `longest` is the room for the prompt and its answer together, in tokens.

    Raises:
        InvalidRequest: it does not fit the model, means nothing to it, or is a chat for a model
            that has no template.
    """
    chat = _turns(request, model)
    rendered = tokenizer.render(chat) if chat else None
    if rendered is not None:
        ids = tokenizer.encode(rendered, add_special_tokens=False)
    elif request.prompt is not None:
        ids = tokenizer.encode(request.prompt)
    else:
        raise InvalidRequest.of(
            "no_chat_template",
            f"model {model.name!r} has no chat template; send `prompt` instead",
            field="messages",
        )
    if not ids:
        raise InvalidRequest.of(
            "empty_prompt", "the model's tokenizer knows nothing of this prompt", field="prompt"
        )
    if len(ids) >= longest:
        raise InvalidRequest.of(
            "prompt_too_long",
            f"the prompt is {len(ids)} tokens long, and model {model.name!r} takes "
            f"{longest} with the answer; shorten it",
            field="messages" if request.messages else "prompt",
        )
    return ids


def surely_fits(request: Request, model: ModelConfig) -> bool:
    """Whether the prompt is so short that it fits whatever the tokenizer makes of it.

    A token stands for at least one byte of text; the template's own words get a generous share.
    """
    texts = [request.prompt or "", *(turn.content for turn in request.messages or ())]
    texts.append(model.preprocessing.system_prompt or "")
    template = 64 + 16 * len(texts)
    return sum(len(text.encode()) for text in texts) + template < model.max_sequence_length


def _turns(request: Request, model: ModelConfig) -> Sequence[Message]:
    if request.messages is not None:
        turns = list(request.messages)
    elif model.preprocessing.chat_template:
        turns = [Message("user", request.prompt or "")]
    else:
        return []
    system = model.preprocessing.system_prompt
    if system is not None and turns[0].role != "system":
        turns.insert(0, Message("system", system))
    return turns
