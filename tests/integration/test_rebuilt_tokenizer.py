"""The tokenizer rebuilt from the default model's GGUF file is the one others read from it."""

from __future__ import annotations

import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from nexus_jobs.adapters.tokenizer import FileTokenizer
from nexus_jobs.job import Message

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def smollm(models_dir: Path) -> Path:
    """The folder of the default model."""
    return models_dir / "smollm2-135m"


def varied_texts() -> list[str]:
    """Texts of many scripts, digits, blanks and special tokens, mixed at random."""
    pools = [
        [chr(c) for c in range(32, 127)],
        [chr(c) for c in range(0xA0, 0x3000) if chr(c).isprintable()],
        [chr(c) for c in range(0x4E00, 0x9FFF)],
        [chr(c) for c in range(0x1F300, 0x1F700)],
        list("0123456789 .,\n\t"),
        list(" \n\t\r\u00a0\u2003"),
        ["<|im_start|>", "<|im_end|>", "user", "\n", " ", "<repo_name>", "'s", "I'LL", "don't"],
    ]
    draw = random.Random(1)

    def text(pool: list[str]) -> str:
        pieces = range(draw.randint(1, 40))
        return "".join(draw.choice(draw.choice([pool, pool, draw.choice(pools)])) for _ in pieces)

    return [text(pool) for pool in pools for _ in range(150)]


def test_the_rebuilt_tokenizer_agrees_with_openvinos(smollm: Path) -> None:
    import openvino_genai

    ours = FileTokenizer(smollm / "tokenizer")
    theirs = openvino_genai.Tokenizer(str(smollm / "gguf" / "model.gguf"))
    encode = partial(theirs.encode, add_special_tokens=False)
    for text in varied_texts():
        assert ours.encode(text) == encode(text).input_ids.data[0].tolist(), repr(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(ours.encode(text)), repr(text)
    chat = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Yes?"}]
    turns = [Message(**turn) for turn in chat]
    assert ours.render(turns) == theirs.apply_chat_template(chat, add_generation_prompt=True)


def test_the_rebuilt_tokenizer_agrees_with_transformers(smollm: Path) -> None:
    """Except where digits follow two blanks: transformers does not know SmolLM's way with them."""
    from transformers import AutoTokenizer

    ours = FileTokenizer(smollm / "tokenizer")
    theirs = AutoTokenizer.from_pretrained(smollm / "gguf", gguf_file="model.gguf")
    texts = [text for text in varied_texts() if not any(char.isnumeric() for char in text)]
    assert len(texts) > 300
    for text in texts:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), repr(text)


def test_every_tokenizer_is_read_without_heavy_packages(models_dir: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from nexus_jobs.adapters.engines.build import load_tokenizer\n"
        "from nexus_jobs.models import ModelConfig\n"
        "tokenizer = load_tokenizer(ModelConfig(name='smollm2-135m'), Path(sys.argv[1]))\n"
        "heavy = {'torch', 'transformers', 'openvino', 'openvino_genai', 'onnxruntime', 'gguf'}\n"
        "print(tokenizer.encode('Hello'), sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, str(models_dir)]
    assert subprocess.check_output(command, text=True).strip() == "[19556] []"
