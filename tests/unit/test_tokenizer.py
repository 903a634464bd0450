"""A pulled model's tokenizer, its chat template, and how a GGUF file's words are cut."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from nexus_jobs.adapters.gguf_tokenizer import pre_tokenizer
from nexus_jobs.adapters.tokenizer import FileTokenizer
from nexus_jobs.errors import InvalidRequest, ModelUnavailable
from nexus_jobs.job import Message

CHAT = [Message("system", "Be brief."), Message("user", "1 < 2?")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A byte-level tokenizer in which each byte is a token, and one special token ends a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def load(folder: Path, template: str | None = None) -> FileTokenizer:
    config = {
        "eos_token": "<end>",
        "eos_token_id": [256],
        "model_max_length": 512,
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return FileTokenizer(folder)


@pytest.mark.parametrize("text", ["", "plain", "naïve 你好 🙂", " \t two\n\nlines ", "a\0b"])
def test_text_round_trips(folder: Path, text: str) -> None:
    tokenizer = load(folder)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_not_in_the_text(folder: Path) -> None:
    tokenizer = load(folder)
    assert tokenizer.encode("yes<end>")[-1] == 256
    assert tokenizer.decode(tokenizer.encode("yes<end>")) == "yes"


def test_it_knows_what_ends_a_text_and_how_long_one_may_be(folder: Path) -> None:
    tokenizer = load(folder)
    assert tokenizer.eos_token_ids == {256}
    assert tokenizer.context_length == 512
    assert tokenizer.vocab_size == 257


def test_several_threads_may_use_it(folder: Path) -> None:
    tokenizer = load(folder, "{% for m in messages %}{{ m.content }}{% endfor %}")
    texts = [f"text number {n} {'x' * n}" for n in range(200)]

    def there_and_back(text: str) -> str:
        rendered = tokenizer.render([Message("user", text)])
        assert rendered is not None
        return tokenizer.decode(tokenizer.encode(rendered))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(there_and_back, texts)) == texts


def test_without_a_template_nothing_is_rendered(folder: Path) -> None:
    assert load(folder).render(CHAT) is None


def test_a_template_sees_the_turns_and_the_special_tokens(folder: Path) -> None:
    template = (
        "{% for m in messages %}\n  {%- if loop.index > 9 %}{% break %}{% endif %}\n"
        "{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    rendered = load(folder, template).render(CHAT)
    assert rendered == "system: Be brief.<end>user: 1 < 2?<end>assistant:"


def test_a_template_may_mark_what_was_generated_ask_the_date_and_write_json(folder: Path) -> None:
    template = (
        "{% generation %}{{ messages[1].content | tojson }}{% endgeneration %}"
        "{{ strftime_now('%Y') }}"
    )
    assert load(folder, template).render(CHAT) == f'"1 < 2?"{datetime.now().year}'


def test_a_role_the_template_does_not_know_is_refused_in_its_own_words(folder: Path) -> None:
    template = (
        "{% if messages[0].role != 'user' %}{{ raise_exception('only users here') }}{% endif %}"
    )
    with pytest.raises(InvalidRequest, match="only users here") as refused:
        load(folder, template).render([Message("wizard", "abracadabra")])
    assert refused.value.code == "invalid_messages"
    assert refused.value.problems[0].field == "messages"


def test_a_template_cannot_reach_python(folder: Path) -> None:
    template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(InvalidRequest, match="unsafe"):
        load(folder, template).render(CHAT)


def test_a_template_cannot_change_what_it_is_given(folder: Path) -> None:
    with pytest.raises(InvalidRequest):
        load(folder, "{{ messages.clear() }}").render(CHAT)


@pytest.mark.parametrize("damage", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_files_say_which_tokenizer_cannot_be_loaded(folder: Path, damage: str) -> None:
    load(folder)
    (folder / damage).write_text("{")
    with pytest.raises(ModelUnavailable, match=folder.name):
        FileTokenizer(folder)


def test_a_template_that_is_no_template_makes_the_model_unavailable(folder: Path) -> None:
    with pytest.raises(ModelUnavailable, match="endfor"):
        load(folder, "{% for m in messages %}")


TEXT = "It's 1234  years:\n\n  i'LL go\tnow… 你好 ²³ x_y 3.14\r\n end "
WORDS = {
    "gpt-2": ["It", "'s", "Ġ1234", "Ġ", "Ġyears", ":"],
    "smollm": ["It", "'s", "Ġ", "1", "2", "3", "4", "Ġ", "Ġyears", ":"],
    "qwen2": ["It", "'s", "Ġ", "1", "2", "3", "4", "Ġ", "Ġyears", ":ĊĊ"],
    "llama-bpe": ["It", "'s", "Ġ", "123", "4", "Ġ", "Ġyears", ":ĊĊ"],
}


@pytest.mark.parametrize("family", WORDS)
def test_each_family_cuts_words_in_its_own_way(family: str) -> None:
    words = [word for word, _ in pre_tokenizer(family).pre_tokenize_str(TEXT)]
    assert words[: len(WORDS[family])] == WORDS[family]


def test_words_are_cut_as_qwens_own_tokenizer_cuts_them() -> None:
    from transformers import Qwen2Tokenizer

    theirs = Qwen2Tokenizer(vocab={"a": 0}, merges=[]).backend_tokenizer.pre_tokenizer
    assert pre_tokenizer("qwen2").pre_tokenize_str(TEXT) == theirs.pre_tokenize_str(TEXT)


def test_an_unknown_family_is_refused_with_those_we_know() -> None:
    with pytest.raises(ModelUnavailable, match=r"martian.*smollm"):
        pre_tokenizer("martian")
