"""Platforms to break."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nexus_jobs.chaos.ground import Ground, ground


@pytest.fixture(scope="module")
def on_sqlite() -> Iterator[Ground]:
    """With four processes that write all the time: two of the API, and two workers."""
    with ground("sqlite", {"NEXUS_SERVER__WORKERS": "2"}) as built:
        yield built


@pytest.fixture(scope="module")
def on_postgres() -> Iterator[Ground]:
    with ground("postgresql") as built:
        yield built
