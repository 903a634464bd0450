"""Rebuilds a model's tokenizer files from the metadata of its GGUF file, without torch.

The pre-tokenizer patterns are those of llama.cpp (`llama-vocab.cpp`); a digit of SmolLM's and
StarCoder's stands alone, as their own tokenizer.json files have it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nexus_jobs.adapters.packages import require
from nexus_jobs.errors import ModelUnavailable

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

_LLAMA3: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS: Final = {"llama-bpe": _LLAMA3, "qwen2": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")}
_SINGLE_DIGITS: Final = frozenset({"smollm", "starcoder", "refact"})
_PLAIN: Final = frozenset({"gpt-2", "default"})

_CONTROL: Final = 3
_USER_DEFINED: Final = 4
"""Values of `tokenizer.ggml.token_type`."""


class GgufMetadata:
    """What a GGUF file says about its model; values are read when asked for."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            ModelUnavailable: it is not a GGUF file, or the package `gguf` is missing.
        """
        gguf = require("gguf", extra="cpu")
        try:
            self._fields = gguf.GGUFReader(path).fields
        except (OSError, ValueError, IndexError, KeyError) as error:
            raise ModelUnavailable(f"{path} is not a complete GGUF file: {error}") from error

    def get(self, key: str, default: Any = None) -> Any:
        field = self._fields.get(key)
        return default if field is None else field.contents()

    @property
    def context_length(self) -> int | None:
        length = self.get(f"{self.get('general.architecture')}.context_length")
        return None if length is None else int(length)

    @property
    def precision(self) -> str:
        """How most weights are stored: `Q4_1`."""
        gguf = require("gguf", extra="cpu")
        try:
            return str(gguf.LlamaFileType(self.get("general.file_type")).name).partition("_")[2]
        except ValueError:
            return "unknown"


def write_tokenizer(metadata: GgufMetadata, target: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json into the folder `target`.

    Raises:
        ModelUnavailable: the tokenizer is of a kind we cannot rebuild.
    """
    tokenizer = _byte_level_bpe(metadata)
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(target / "tokenizer.json"))
    config = json.dumps(_config(metadata), ensure_ascii=False, indent=2)
    (target / "tokenizer_config.json").write_text(config, encoding="utf-8")


def _byte_level_bpe(metadata: GgufMetadata) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers

    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ModelUnavailable(
            f"this GGUF file has a tokenizer of kind {kind!r}; only byte-level BPE ('gpt2') can be "
            "rebuilt from it: pull the model's Hugging Face folder instead"
        )
    tokens = metadata.get("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in metadata.get("tokenizer.ggml.merges")]
    family = metadata.get("tokenizer.ggml.pre", "default")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, ignore_merges=family == "llama-bpe")
    )
    if family == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer(family)
    tokenizer.decoder = decoders.ByteLevel()
    _add_special_tokens(tokenizer, tokens, metadata.get("tokenizer.ggml.token_type", ()))
    _add_beginning(tokenizer, tokens, metadata)
    return tokenizer


def pre_tokenizer(family: str) -> PreTokenizer:
    """How models of this `tokenizer.ggml.pre` cut a text into words.

    Raises:
        ModelUnavailable: it is not one of those we know.
    """
    from tokenizers import Regex, pre_tokenizers

    if family in _SINGLE_DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if family in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[family]), behavior="isolated")
        spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, spelling])
    if family in _PLAIN:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    known = ", ".join(sorted({*_SINGLE_DIGITS, *_SPLITS, *_PLAIN}))
    raise ModelUnavailable(
        f"this GGUF file's tokenizer splits words the way of {family!r}, which is not one of those "
        f"we can rebuild ({known}): pull the model's Hugging Face folder instead"
    )


def _add_special_tokens(tokenizer: Tokenizer, tokens: list[str], types: list[int]) -> None:
    from tokenizers import AddedToken

    for token, kind in zip(tokens, types, strict=False):
        if kind in (_CONTROL, _USER_DEFINED):
            added = AddedToken(token, normalized=False, special=kind == _CONTROL)
            (tokenizer.add_special_tokens if kind == _CONTROL else tokenizer.add_tokens)([added])


def _add_beginning(tokenizer: Tokenizer, tokens: list[str], metadata: GgufMetadata) -> None:
    """Let the tokenizer put the beginning-of-sequence token first, where the model wants it."""
    from tokenizers import processors

    bos = metadata.get("tokenizer.ggml.bos_token_id")
    if metadata.get("tokenizer.ggml.add_bos_token", False) and bos is not None:
        name = tokens[bos]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{name} $A", special_tokens=[(name, int(bos))]
        )


def _config(metadata: GgufMetadata) -> dict[str, Any]:
    """The keys that Hugging Face's tokenizer_config.json has, and the ids that end a sequence."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    ids = {
        name: metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items()
    }
    ends = {ids["eos"], *(metadata.get(f"tokenizer.ggml.{e}_token_id") for e in ("eot", "eom"))}
    return {
        **{f"{name}_token": tokens[i] for name, i in ids.items() if i is not None},
        "eos_token_id": sorted(int(end) for end in ends if end is not None),
        "model_max_length": metadata.context_length,
        "chat_template": metadata.get("tokenizer.chat_template"),
    }
