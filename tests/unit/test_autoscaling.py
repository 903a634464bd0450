"""How the number of local workers follows what is recommended."""

from types import SimpleNamespace

from nexus_jobs.autoscaling import PATIENCE_SECONDS, Autoscaler
from nexus_jobs.cli import local_workers
from nexus_jobs.cli.local_workers import LocalWorkers
from nexus_jobs.config import Settings
from nexus_jobs.supervisor import Child


def test_it_grows_at_once_within_its_bounds():
    scaler = Autoscaler(least=1, most=4)
    assert scaler.workers(0.0, 1, 3) == 3
    assert scaler.workers(1.0, 3, 9) == 4
    assert scaler.workers(2.0, 4, 4) == 4


def test_it_shrinks_one_by_one_and_only_after_a_while():
    scaler = Autoscaler(least=1, most=4)
    assert scaler.workers(0.0, 4, 0) == 4
    assert scaler.workers(PATIENCE_SECONDS - 1, 4, 0) == 4
    assert scaler.workers(PATIENCE_SECONDS, 4, 0) == 3
    assert scaler.workers(PATIENCE_SECONDS + 1, 3, 0) == 3
    assert scaler.workers(2 * PATIENCE_SECONDS, 3, 0) == 2
    assert scaler.workers(3 * PATIENCE_SECONDS, 2, 0) == 1
    assert scaler.workers(9 * PATIENCE_SECONDS, 1, 0) == 1


def test_a_need_in_between_starts_the_wait_anew():
    scaler = Autoscaler(least=1, most=4)
    scaler.workers(0.0, 3, 1)
    scaler.workers(PATIENCE_SECONDS / 2, 3, 3)
    assert scaler.workers(PATIENCE_SECONDS, 3, 1) == 3
    assert scaler.workers(2 * PATIENCE_SECONDS, 3, 1) == 2


def test_a_worker_that_cannot_be_started_now_is_started_later(tmp_path, monkeypatch):
    monkeypatch.setattr(local_workers, "LOOK_SECONDS", 0.0)
    started, trouble = [], [OSError("no more processes")]

    def start(child):
        if child.name == "worker-3" and trouble:
            raise trouble.pop()
        started.append(child.name)

    always_three = SimpleNamespace(least=1, most=3, workers=lambda *_: 3)
    with LocalWorkers(
        SimpleNamespace(start=start),
        Settings(data_dir=tmp_path),
        always_three,
        lambda number: Child(name=f"worker-{number}", command=[]),
    ) as local:
        local.adapt()
        assert started == ["worker-2"]
        local.adapt()
        local.adapt()
        assert started == ["worker-2", "worker-3"]
