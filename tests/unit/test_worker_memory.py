"""How much memory a worker thinks that it may use."""

import pytest

from nexus_jobs.config import WorkerSettings
from workers import memory

GIB = 2**30


def group(root, path, file, text):
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(text)


@pytest.fixture
def limits(tmp_path):
    """The bounds that a process of these groups has, under a tree of such files."""

    def read(groups, *files):
        for path, file, text in files:
            group(tmp_path / "cgroup", path, file, text)
        processes = tmp_path / "of-this-process"
        processes.write_text(groups)
        return memory._limits(processes, tmp_path / "cgroup")

    return read


def test_the_bound_of_a_group_and_of_those_around_it_count(limits):
    bounds = limits(
        "0::/pod/box\n",
        ("pod/box", "memory.max", "max\n"),
        ("pod", "memory.max", f"{GIB}\n"),
        ("other", "memory.max", "1\n"),
    )
    assert bounds == [GIB]


def test_in_a_container_the_bound_lies_at_the_root(limits):
    assert limits("0::/not/seen/from/inside\n", (".", "memory.max", f"{GIB}\n")) == [GIB]


def test_the_older_form_of_groups_is_known_too(limits):
    file = ("memory/box", "memory.limit_in_bytes", f"{GIB}\n")
    assert limits("4:cpu,memory:/box\n1:pids:/box\n", file) == [GIB]


def test_models_may_hold_what_the_settings_say_or_a_share_of_what_the_process_may(monkeypatch):
    assert memory.budget(WorkerSettings(memory_mb=123, per_machine=4)) == 123
    monkeypatch.setattr(memory, "_limits", lambda: [GIB])
    assert memory.budget(WorkerSettings()) == pytest.approx(0.8 * 1024)
    assert memory.budget(WorkerSettings(per_machine=4)) == pytest.approx(0.2 * 1024)


def test_a_process_that_is_gone_holds_nothing():
    assert memory.resident() > 1
    assert memory.resident(2**22 + 1) is None


def test_a_worker_without_a_gpu_says_nothing_of_one():
    assert memory.on_gpu({"cpu"}) is None
