"""The one table of legal transitions."""

from nexus_jobs.states import TERMINAL, TRANSITIONS, Event, State


def test_every_event_stands_in_the_table():
    assert set(TRANSITIONS) == set(Event)


def test_terminal_states_are_those_that_nothing_leads_out_of():
    assert {s.value for s in TERMINAL} == {"succeeded", "failed", "dead", "cancelled", "expired"}


def test_every_state_can_be_reached_from_queued():
    reached = {State.QUEUED}
    for _ in State:
        reached |= {target for sources, target in TRANSITIONS.values() if sources & reached}
    assert reached == set(State)


def test_a_result_can_only_come_from_a_running_job():
    assert TRANSITIONS[Event.SUCCEED][0] == {State.RUNNING}
