"""What tests of every kind share."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_jobs.adapters.model_files import pull

MODELS_DIR = Path(__file__).parent.parent / ".nexus" / "models"


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """A model root that holds `smollm2-135m`; fetched once, then kept for later runs."""
    pull("smollm2-135m", models_dir=MODELS_DIR)
    return MODELS_DIR
