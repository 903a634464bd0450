"""What an engine in a process of its own promises."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial

import pytest

from nexus_jobs.adapters.engines.process import ProcessEngine
from nexus_jobs.adapters.engines.simulated import SimulatedEngine
from nexus_jobs.adapters.engines.words import WordTokenizer
from nexus_jobs.engine import Progress, TokenSequence
from nexus_jobs.errors import EngineError, InvalidRequest, ModelUnavailable
from nexus_jobs.job import FinishReason, SamplingParams
from nexus_jobs.models import SimulatedTimes
from tests.e2e.stack import until

BUILD = partial(SimulatedEngine, SimulatedTimes(), 4, 64)
TOKENIZER = WordTokenizer()


def sequence(name: str, text: str, **params) -> TokenSequence:
    return TokenSequence(name, TOKENIZER.encode(text), SamplingParams(**params))


@pytest.fixture
def engine():
    made = ProcessEngine(BUILD, TOKENIZER)
    yield made
    made.close()


def child() -> int:
    (process,) = multiprocessing.active_children()
    return process.pid


def test_it_is_the_engine_that_it_runs(engine):
    assert (engine.name, engine.slots, engine.max_sequence_length) == ("simulated", 4, 64)
    engine.admit([sequence("a", "one two"), sequence("b", "on and on", max_tokens=9)])
    engine.evict("b")
    first, second = engine.step(), engine.step()
    assert [progress.sequence_id for progress in first + second] == ["a", "a"]
    assert second[0].finish_reason is FinishReason.STOP
    assert TOKENIZER.decode([*first[0].token_ids, *second[0].token_ids]) == "one two"
    assert engine.step() == []


def test_it_has_time_to_spare_while_a_step_runs_that_was_asked_for_ahead():
    build = partial(SimulatedEngine, SimulatedTimes(step_ms=400), 4, 64)
    engine = ProcessEngine(build, TOKENIZER)
    assert engine.spare_seconds == 0
    engine.admit([sequence("a", "on and on", max_tokens=9, ignore_eos=True)])
    assert engine.spare_seconds == 0  # it has not begun
    engine.step()
    assert 0 < engine.spare_seconds <= 0.21
    until(lambda: engine.spare_seconds == 0, timeout=5)
    engine.step()
    engine.evict("a")
    assert engine.spare_seconds == 0
    engine.close()


def test_a_row_that_was_evicted_while_its_step_ran_is_not_heard_of_again(engine):
    engine.admit([sequence("a", "one two three"), sequence("b", "on and on", max_tokens=9)])
    assert len(engine.step()) == 2
    engine.evict("b")
    assert [progress.sequence_id for progress in engine.step()] == ["a"]


def test_rows_join_though_the_steps_before_have_more_to_say_than_the_pipe_can_hold(engine):
    long = " ".join(["x" * 1_000_000] * 9)
    engine.admit([sequence("a", long)])
    engine.step()
    joining = threading.Thread(target=engine.admit, args=([sequence("b", long)],), daemon=True)
    joining.start()
    joining.join(10)
    assert not joining.is_alive()
    until(lambda: {progress.sequence_id for progress in engine.step()} == {"a", "b"})


class Refusing(SimulatedEngine):
    """Takes no rows."""

    def admit(self, sequences):
        self._refused = [
            Progress(row.id, (), error=InvalidRequest.of("no", "not you", field="prompt"))
            for row in sequences
        ]

    def step(self):
        return self._refused


def test_why_a_row_failed_alone_is_told_as_here():
    with closing(ProcessEngine(partial(Refusing, SimulatedTimes(), 4, 64), TOKENIZER)) as engine:
        engine.admit([sequence("a", "one")])
        [refused] = engine.step()
        assert engine.step() == []
    assert isinstance(refused.error, InvalidRequest)
    assert (refused.error.code, str(refused.error)) == ("no", "not you")
    assert refused.error.problems[0].field == "prompt"


def test_a_killed_process_fails_its_rows_and_is_replaced(engine):
    engine.admit([sequence("a", "lost")])
    os.kill(child(), signal.SIGKILL)
    with pytest.raises(EngineError, match="its process died"):
        engine.step()
    assert engine.step() == []
    with pytest.raises(ModelUnavailable, match="has died"):
        engine.admit([sequence("b", "too late")])


def test_rows_that_join_a_dead_process_fail_with_the_others(engine):
    engine.admit([sequence("a", "lost")])
    os.kill(child(), signal.SIGKILL)
    engine.admit([sequence("b", "lost too")])
    with pytest.raises(EngineError, match="its process died"):
        engine.step()
    assert engine.step() == []


def test_a_row_of_a_dead_process_can_be_evicted(engine):
    engine.admit([sequence("a", "lost"), sequence("b", "lost")])
    os.kill(child(), signal.SIGKILL)
    engine.evict("a")
    with pytest.raises(EngineError):
        engine.step()
    assert engine.step() == []


def test_nothing_is_left_after_close():
    engine = ProcessEngine(BUILD, TOKENIZER)
    engine.close()
    assert multiprocessing.active_children() == []


def unavailable() -> SimulatedEngine:
    raise ModelUnavailable("pull it first")


def test_a_model_that_is_not_there_is_told_as_here():
    with pytest.raises(ModelUnavailable, match="pull it first"):
        ProcessEngine(unavailable, TOKENIZER)
    until(lambda: not multiprocessing.active_children())


def dying() -> SimulatedEngine:
    os._exit(3)


def test_a_library_that_kills_its_process_makes_the_model_unavailable():
    with pytest.raises(ModelUnavailable, match="died while it loaded"):
        ProcessEngine(dying, TOKENIZER)


def test_it_ends_with_the_process_that_it_serves():
    script = (
        "import multiprocessing, sys\n"
        "from tests.integration.test_process_engine import BUILD, TOKENIZER, ProcessEngine\n"
        "if __name__ == '__main__':\n"
        "    engine = ProcessEngine(BUILD, TOKENIZER)\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    until(lambda: not _runs(pid), timeout=20)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
