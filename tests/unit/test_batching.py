"""When a batch starts and who may join it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_jobs.batching import BUSY_SECONDS, BatchPolicy, RowLimit, Snapshot

LATER = 1e9


def seen(*, held=0, expected=0, since=None, next_poll=LATER, **fields):
    return Snapshot(held=held, expected=expected, since=since, next_poll=next_poll, **fields)


def test_an_idle_worker_without_tickets_waits_for_the_next_poll():
    decision = BatchPolicy(slots=4).decide(10.0, seen(next_poll=10.5))
    assert (decision.claim, decision.wake_at) == (0, 10.5)


def test_a_poll_that_is_due_claims_without_a_ticket():
    assert BatchPolicy(slots=4).decide(10.5, seen(next_poll=10.5)).claim == 4


def test_without_a_wait_time_the_first_ticket_starts_the_batch():
    assert BatchPolicy(slots=4).decide(10.0, seen(expected=1, since=10.0)).claim == 4


def test_an_idle_worker_waits_until_the_oldest_has_waited_long_enough():
    policy = BatchPolicy(slots=4, max_wait=0.5)
    early = policy.decide(10.4, seen(expected=1, since=10.0))
    assert (early.claim, early.wake_at) == (0, 10.5)
    assert policy.decide(10.5, seen(expected=1, since=10.0)).claim == 4


def test_a_full_batch_is_worth_no_waiting():
    policy = BatchPolicy(slots=4, max_wait=60)
    assert policy.decide(10.0, seen(expected=4, since=10.0)).claim == 4


def test_a_running_batch_lets_jobs_join_at_once():
    policy = BatchPolicy(slots=4, max_wait=60)
    assert policy.decide(10.0, seen(held=3, expected=1, since=10.0)).claim == 1


def test_a_full_worker_claims_nothing_until_a_slot_is_free():
    decision = BatchPolicy(slots=4).decide(10.0, seen(held=4, expected=9, since=1.0, next_poll=0))
    assert (decision.claim, decision.wake_at) == (0, float("inf"))


@given(
    slots=st.integers(1, 64),
    max_wait=st.floats(0, 10),
    held=st.integers(0, 64),
    expected=st.integers(0, 100),
    waited=st.one_of(st.none(), st.floats(0, 20)),
    until_poll=st.floats(-1, 1),
)
def test_no_decision_overfills_or_forgets_a_waiting_job(
    slots, max_wait, held, expected, waited, until_poll
):
    now = 100.0
    since = None if waited is None else now - waited
    decision = BatchPolicy(slots=slots, max_wait=max_wait).decide(
        now, seen(held=held, expected=expected, since=since, next_poll=now + until_poll)
    )
    assert 0 <= decision.claim <= max(0, slots - held)
    if not decision.claim and held < slots:
        latest = now + until_poll if since is None else since + max_wait
        assert now < decision.wake_at <= latest


@pytest.mark.parametrize(
    ("lengths", "budget", "joining"),
    [
        ([10, 10, 10], None, 3),
        ([10, 10, 10], 20, 2),
        ([500], 20, 1),
        ([500, 1], 20, 1),
        ([], 20, 0),
    ],
)
def test_prompts_join_in_order_within_the_token_budget(lengths, budget, joining):
    assert BatchPolicy(slots=8, max_join_tokens=budget).joining(lengths) == joining


def test_a_search_for_suspects_comes_first_when_it_is_due():
    decision = BatchPolicy(slots=4).decide(10.0, seen(expected=9, since=1.0, next_search=10.0))
    assert (decision.claim, decision.suspects) == (4, True)
    decision = BatchPolicy(slots=4).decide(10.0, seen(expected=9, since=1.0, next_search=10.5))
    assert (decision.claim, decision.suspects) == (4, False)


def test_a_worker_with_rows_leaves_a_suspect_to_idle_ones_for_a_while():
    policy, later = BatchPolicy(slots=4), 10.0 + BUSY_SECONDS
    decision = policy.decide(10.0, seen(held=4, next_search=10.0))
    assert (decision.claim, decision.wake_at) == (0, later)
    decision = policy.decide(later, seen(held=4, next_search=10.0))
    assert (decision.claim, decision.suspects) == (4, True)


def test_nothing_is_claimed_beside_a_suspect():
    busy = seen(held=1, expected=9, since=1.0, next_poll=0, next_search=0, quarantine=True)
    decision = BatchPolicy(slots=4).decide(10.0, busy)
    assert (decision.claim, decision.wake_at) == (0, float("inf"))


def test_a_batch_that_did_not_fit_is_halved_and_grows_again_row_by_row():
    limit, policy = RowLimit(16), BatchPolicy(slots=16)
    assert limit.bound(policy) is policy
    limit.exceeded_by(13)
    assert limit.bound(policy).slots == 6
    for _ in range(RowLimit.TRIAL_STEPS):
        limit.stepped(5)
    assert limit.rows == 6
    for _ in range(RowLimit.TRIAL_STEPS):
        limit.stepped(6)
    assert limit.rows == 7


@given(st.lists(st.integers(1, 64)))
def test_there_is_always_room_for_a_row_and_never_for_more_than_the_slots(batches):
    limit = RowLimit(16)
    for rows in batches:
        limit.exceeded_by(rows)
        for _ in range(2 * RowLimit.TRIAL_STEPS):
            limit.stepped(limit.rows)
        assert 1 <= limit.rows <= 16
