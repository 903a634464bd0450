"""Stacks for the tests to use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.roles import Roles
from tests.e2e.stack import SIMULATED, SLOW, Stack


@pytest.fixture(scope="session")
def make_stack(tmp_path_factory, models_dir) -> Iterator[Callable[..., Stack]]:
    stacks: list[Stack] = []

    def make(models: list[dict[str, Any]]) -> Stack:
        stack = Stack(tmp_path_factory.mktemp("stack"), models, models_dir)
        stacks.append(stack)
        return stack

    yield make
    for stack in stacks:
        stack.http.close()
        if stack.running:
            stack.stop()


@pytest.fixture(scope="session")
def stack(make_stack) -> Stack:
    """A stack that tests share: the real model, and simulated ones, fast and slow."""
    shared = make_stack([{"name": "smollm2-135m", "max_batch_size": 16}, SIMULATED, SLOW])
    shared.start()
    return shared


@pytest.fixture
def make_roles(tmp_path, models_dir) -> Iterator[Callable[..., Roles]]:
    made: list[Roles] = []

    def make(*models: dict[str, Any]) -> Roles:
        made.append(Roles(tmp_path, list(models), models_dir))
        return made[-1]

    yield make
    for roles in made:
        roles.http.close()
        roles.end_all()
