"""Which models a route can count on."""

from nexus_jobs.fleet import ModelState, RegisteredModel, ServedModel, Wanted, WorkerReport
from nexus_jobs.models import ModelConfig
from nexus_jobs.routing import reachable


def worker(fixed=False, draining=False, **states):
    served = {name: ServedModel(ModelState(state)) for name, state in states.items()}
    return WorkerReport(
        id="w", host="h", pid=1, device="cpu", models=served, fixed=fixed, draining=draining
    )


MODELS = [RegisteredModel(config=ModelConfig(name=name)) for name in ("a", "b", "c", "d")]


def test_on_workers_with_lists_of_their_own_only_what_they_have_or_load():
    here = [worker(fixed=True, a="ready", b="loading"), worker(fixed=True, c="failed", d="warming")]
    assert reachable(here, MODELS) == {"a", "b", "d"}


def test_where_the_scheduler_may_load_a_model_all_but_those_that_failed():
    assert reachable([worker(a="failed", b="ready")], MODELS) == {"b", "c", "d"}
    assert reachable([worker(a="failed"), worker(a="ready")], MODELS) == {"a", "b", "c", "d"}


def test_what_is_to_be_unloaded_is_not_counted_on():
    unloaded = RegisteredModel(config=ModelConfig(name="a"), wanted=Wanted.UNLOADED)
    assert reachable([worker()], [unloaded]) == set()


def test_without_a_worker_that_takes_jobs_nothing_is():
    assert reachable([], MODELS) == set()
    assert reachable([worker(draining=True)], MODELS) == set()
