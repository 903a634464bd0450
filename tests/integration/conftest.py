"""A small model that tests of files can pull, and databases without tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from safetensors.numpy import save_file
from sqlalchemy import create_engine, make_url, text
from tokenizers import Tokenizer, models


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A small Hugging Face folder."""
    folder = tmp_path / "Tiny-Model"
    folder.mkdir()
    save_file({"weight": np.arange(6.0)}, folder / "model.safetensors")
    Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(folder / "tokenizer.json"))
    write(folder / "config.json", {"max_position_embeddings": 64, "dtype": "float16"})
    write(folder / "generation_config.json", {"eos_token_id": [1, 0]})
    write(
        folder / "tokenizer_config.json",
        {"eos_token": {"content": "b"}, "model_max_length": 1e30, "chat_template": "old"},
    )
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}{{ eos_token }}")
    return folder


@pytest.fixture
def model_root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """A database of its own on the session's server."""
    name = f"nexus_{uuid4().hex}"
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(postgres_url).set(database=name).render_as_string()
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/nexus.db"
    return str(request.getfixturevalue("postgres_database"))


def write(path: Path, document: object) -> None:
    path.write_text(json.dumps(document))
