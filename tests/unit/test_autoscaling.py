"""How the number of local workers follows what is recommended."""

from nexus_jobs.autoscaling import PATIENCE_SECONDS, Autoscaler


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
