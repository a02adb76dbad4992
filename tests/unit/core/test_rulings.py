"""What follows from a failure, question by question."""

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_waybill import names
from otel_waybill.core.backoff import LONGEST_DELAY, Backoff
from otel_waybill.core.bounds import Bounds
from otel_waybill.core.delivery import Delivery, Instant, Reason
from otel_waybill.core.retry import Retry
from otel_waybill.core.rulings import Again, Budget, Case, Cost, Ignored, Parked, Ruling
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.topology import RUNGS, rungs
from otel_waybill.core.waybill import Hop, Waybill
from otel_waybill.errors import CircuitOpen, RetryAfter

NOW = Instant(1000.0, 1_764_000_000.0)
STEADY = Backoff(first=1.0, ceiling=8.0, jitter="none")
RETRY = Retry(attempts=3, backoff=STEADY)
ERROR = ValueError("no such order")
DEFERRING = CircuitOpen("inventory", 1.5, defer=True)
PASSED = Bounds(due=NOW.monotonic - 1.0)


def case(
    waybill: Waybill | None = None,
    bounds: Bounds | None = None,
    budget: Budget | None = None,
    hold_max: float = 300.0,
    **retry: Any,  # noqa: ANN401 - see Retry
) -> Case:
    """A case under a policy that retries three times unless told otherwise."""
    spec = PolicySpec(retry=replace(RETRY, **retry), hold_max=hold_max)
    return Case(
        spec=spec,
        declared=rungs(spec),
        waybill=waybill or Waybill(),
        bounds=bounds or Bounds(),
        budget=budget,
    )


def failed_ago(seconds: float, **facts: Any) -> Waybill:  # noqa: ANN401 - see Waybill
    """A waybill that remembers a first failure so many seconds ago."""
    return Waybill(hop=Hop(first_failed_at=round((NOW.wall - seconds) * 1000)), **facts)


class Asking(Exception):  # noqa: N818 - it asks
    """An exception with a wait of its own."""

    def __init__(self, retry_after: object) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


def wait_of(ruling: Ruling) -> float:
    """The seconds after which the message of *ruling* comes back; it has to."""
    assert isinstance(ruling, Again)
    return ruling.wait


# Which exceptions.


def test_ignored_exception_is_no_failure() -> None:
    """It comes before everything: the deadline, the attempts and the other rules."""
    everything = case(
        Waybill(attempt=3, retries=5, retry_limit=5), PASSED, ignore=ValueError, park=ValueError, on=()
    )
    assert Ignored() == everything.after(ERROR, NOW, 0.0)


def test_permanent_exception_is_parked_before_anything_else_is_asked() -> None:
    """What *park* means, and what *on* does not, is not tried again, whatever else may be said of it."""
    used_up = Waybill(attempt=3)
    assert Parked(Reason.PERMANENT, ERROR) == case(used_up, PASSED, park=ValueError).after(ERROR, NOW, 0.0)
    assert Parked(Reason.PERMANENT, ERROR) == case(used_up, PASSED, on=KeyError).after(ERROR, NOW, 0.0)
    assert Again(1.0, 1000, Cost.ATTEMPT, ERROR) == case(park=KeyError).after(ERROR, NOW, 0.0)


def test_nack_is_a_failure_without_an_exception() -> None:
    """Rules about exceptions have nothing to say about a nack, which is retried."""
    rules = case(on=KeyError, park=lambda _: True, ignore=lambda _: True)
    assert Again(1.0, 1000, Cost.ATTEMPT) == rules.after(None, NOW, 0.0)


def test_predicate_that_raises_parks_with_what_it_raised() -> None:
    """A rule with a bug loses nothing, and whoever looks at the parked message sees the bug."""

    def wrong(error: BaseException) -> bool:
        return bool(error.args[7] == "declined")

    for faulty in (case(on=wrong), case(park=wrong), case(ignore=wrong)):
        ruling = faulty.after(ERROR, NOW, 0.0)
        assert isinstance(ruling, Parked)
        assert (Reason.PERMANENT, IndexError) == (ruling.reason, type(ruling.error))


# How long.


@pytest.mark.parametrize(
    ("asked", "wait"),
    [
        (3, 3.0),
        (2.5, 2.5),
        (timedelta(minutes=2), 120.0),
        (0, 0.0),
        (10**400, LONGEST_DELAY),
        (1e300, LONGEST_DELAY),
        (timedelta.max, LONGEST_DELAY),
    ],
)
def test_exception_may_ask_for_its_own_wait(asked: object, wait: float) -> None:
    """A number of seconds or a timedelta takes the place of the backoff, longer or shorter."""
    ruling = case().after(Asking(asked), NOW, 0.0)
    assert isinstance(ruling, Again)
    assert (wait, Cost.ATTEMPT) == (ruling.wait, ruling.cost)


@pytest.mark.parametrize(
    "asked", [None, "3", "Wed, 21 Oct 2026 07:28:00 GMT", -1, -0.5, math.nan, math.inf, -math.inf, False]
)
def test_nonsense_in_its_place_is_not_believed(asked: object) -> None:
    """Other libraries have an attribute of that name as well: what is no wait leaves the backoff."""
    assert 1.0 == wait_of(case().after(Asking(asked), NOW, 0.0))


@pytest.mark.parametrize("asked", [lambda: 3, timedelta(seconds=-3), timedelta.min, {"seconds": 3}])
def test_nonsense_of_other_types_is_not_believed_either(asked: object) -> None:
    """A method of that name, a wait into the past."""
    assert 1.0 == wait_of(case().after(Asking(asked), NOW, 0.0))


@given(st.floats(allow_nan=True) | st.integers() | st.booleans() | st.text() | st.timedeltas())
def test_whatever_is_asked_the_wait_is_sane(asked: object) -> None:
    """No value makes a message wait for ever, or come back before now."""
    assert 0 <= wait_of(case().after(Asking(asked), NOW, 0.0)) <= LONGEST_DELAY


def test_wait_past_the_last_rung_is_told_in_full() -> None:
    """It starts on the longest rung there is, and is no shorter for that."""
    ruling = case().after(RetryAfter(100.0), NOW, 0.0)
    assert isinstance(ruling, Again)
    assert (100.0, 2000, Cost.ATTEMPT, 100.0) == (ruling.wait, ruling.rung, ruling.cost, ruling.seconds)


def test_wait_on_a_rung_is_at_least_that_rung() -> None:
    """What is rounded up counts as what it is."""
    assert 1.414 == Again(1.2, 1414, Cost.ATTEMPT).seconds
    assert 0.1 == Again(0.1, None, Cost.ATTEMPT).seconds


def test_wait_here_is_bounded() -> None:
    """Where there is no ladder, an hour is no longer than hold_max."""
    ruling = case(hold_max=20.0, in_order=True).after(RetryAfter(3600.0), NOW, 0.0)
    assert isinstance(ruling, Again)
    assert (20.0, None) == (ruling.wait, ruling.rung)


# How much it costs.


def test_breaker_that_defers_costs_no_attempt() -> None:
    """A message that met an open breaker comes back as often as it takes, after its attempts as well."""
    error = DEFERRING
    used_up = Waybill(attempt=3, retries=9, retry_limit=3, hop=Hop(deferrals=99))
    assert Again(4.0, 2000, Cost.DEFERRAL, error) == case(used_up).after(error, NOW, 0.0)


def test_breaker_waits_no_less_than_the_backoff() -> None:
    """Nobody knows when a probe ends: the wait is the longer one of the two."""
    for defer in (True, False):
        short, long = (CircuitOpen("inventory", seconds, defer) for seconds in (0.1, 1.5))
        waits = [
            ruling.wait for each in (short, long) if isinstance(ruling := case().after(each, NOW, 0.0), Again)
        ]
        assert [1.0, 1.5] == waits


def test_deferrals_have_an_end() -> None:
    """After max_deferrals a deferral costs an attempt, and then attempts are what ends it."""
    error = DEFERRING
    ruling = case(Waybill(hop=Hop(deferrals=2)), max_deferrals=2).after(error, NOW, 0.0)
    assert Again(1.5, 2000, Cost.ATTEMPT, error) == ruling
    ruling = case(Waybill(attempt=3, hop=Hop(deferrals=2)), max_deferrals=2).after(error, NOW, 0.0)
    assert Parked(Reason.MAX_ATTEMPTS, error) == ruling
    assert isinstance(case(max_deferrals=0).after(error, NOW, 0.0), Again)


def test_deferral_does_not_outlast_the_deadline() -> None:
    """What costs nothing must be in time all the same."""
    error = DEFERRING
    assert Parked(Reason.DEADLINE, error) == case(bounds=PASSED).after(error, NOW, 0.0)
    soon = Bounds(due=NOW.monotonic + 1.9)
    assert Parked(Reason.DEADLINE_BEFORE_RETRY, error) == case(bounds=soon).after(error, NOW, 0.0)


# The budget.


def test_empty_budget_puts_off() -> None:
    """A retry that the budget does not allow comes after the longest wait, and costs no attempt."""
    assert Again(8.0, 2000, Cost.DEFERRAL, ERROR) == case(budget=lambda _: False).after(ERROR, NOW, 0.0)
    assert Again(1.0, 1000, Cost.ATTEMPT, ERROR) == case(budget=lambda _: True).after(ERROR, NOW, 0.0)


def test_budget_is_asked_last_and_only_for_a_retry() -> None:
    """Nothing is spent on a message that is parked, ignored or put off for another reason."""
    asked: list[float] = []

    def budget(now: float) -> bool:
        asked.append(now)
        return True

    waybills = [Waybill(attempt=3), Waybill(retry_limit=0)]
    for each in waybills:
        case(each, budget=budget).after(ERROR, NOW, 0.0)
    case(bounds=PASSED, budget=budget).after(ERROR, NOW, 0.0)
    case(bounds=Bounds(due=NOW.monotonic + 0.5), budget=budget).after(ERROR, NOW, 0.0)
    case(budget=budget, ignore=ValueError).after(ERROR, NOW, 0.0)
    case(budget=budget, park=ValueError).after(ERROR, NOW, 0.0)
    case(budget=budget).after(DEFERRING, NOW, 0.0)
    assert [] == asked
    case(budget=budget).after(ERROR, NOW, 0.0)
    assert [NOW.monotonic] == asked


def test_message_put_off_too_often_passes_an_empty_budget() -> None:
    """A budget slows retries down; it never keeps a message for ever."""
    waybill = Waybill(hop=Hop(deferrals=100))
    assert Again(1.0, 1000, Cost.ATTEMPT, ERROR) == case(waybill, budget=lambda _: False).after(
        ERROR, NOW, 0.0
    )


# The time for all attempts.


def test_time_for_retries_used_up() -> None:
    """No further run is planned beyond it, and the wait until then counts, as it is on its rung."""
    assert Parked(Reason.MAX_ELAPSED, ERROR) == case(failed_ago(9.5), elapsed=10.0).after(ERROR, NOW, 0.0)
    assert isinstance(case(failed_ago(9.0), elapsed=10.0).after(ERROR, NOW, 0.0), Again)
    assert isinstance(case(elapsed=1.0).after(ERROR, NOW, 0.0), Again), "it begins with the first failure"
    rounded = case(backoff=Backoff(first=1.2, ceiling=8.0, jitter="none"), elapsed=1.3)
    assert Parked(Reason.MAX_ELAPSED, ERROR) == rounded.after(ERROR, NOW, 0.0)


def test_attempts_come_before_the_time_for_them() -> None:
    """Both are used up: the reason is the first in the order of the questions."""
    both = case(failed_ago(60.0, attempt=3), elapsed=10.0)
    assert Parked(Reason.MAX_ATTEMPTS, ERROR) == both.after(ERROR, NOW, 0.0)


def test_deadline_comes_before_the_time_for_retries() -> None:
    """Both would pass: the deadline is the reason."""
    both = case(failed_ago(60.0), Bounds(due=NOW.monotonic + 0.5), elapsed=10.0)
    assert Parked(Reason.DEADLINE_BEFORE_RETRY, ERROR) == both.after(ERROR, NOW, 0.0)


# Without a failure.


def test_what_has_not_run_is_not_judged() -> None:
    """A message that was held too long goes away, late or not: what that means is asked when it is back."""
    late = case(failed_ago(60.0), PASSED, elapsed=10.0)
    assert Again(2.0, 2000, Cost.NOTHING) == late.let_go()


def test_held_message_goes_away_on_one_rung() -> None:
    """Away for 30 s, or on the longest rung there is: one trip through the broker, not sixty."""
    long = case(backoff=Backoff(first=600.0, ceiling=600.0, jitter="none"))
    assert Again(30.0, 724_077, Cost.NOTHING) == long.let_go()
    short = case(attempts=4, backoff=Backoff(first=0.25, ceiling=1.0, jitter="none"))
    assert (250, 500, 1000) == short.declared
    assert Again(1.0, 1000, Cost.NOTHING) == short.let_go()


def test_message_that_comes_too_early_is_put_off_for_nothing() -> None:
    """It has been promised a time; until then it costs neither an attempt nor a deferral."""
    early = Waybill(hop=Hop(not_before=round((NOW.wall + 1.5) * 1000)))
    arriving = Delivery(queue="orders", exchange="", routing_key="orders", headers={})
    assert Again(1.5, 2000, Cost.NOTHING) == case(early).on_arrival(arriving, NOW)
    assert case(early).on_arrival(arriving, Instant(NOW.monotonic, NOW.wall + 1.5)) is None


@pytest.mark.parametrize(
    ("expected", "seconds", "single_active", "deliveries"),
    [
        (True, 60.0, True, 0),
        (True, 1.0, True, 16),
        (False, 0.999, True, 0),
        (False, 60.0, False, 0),
        (False, 60.0, True, 17),
    ],
)
def test_when_the_queue_is_left_to_others(
    seconds: float, deliveries: int, *, expected: bool, single_active: bool
) -> None:
    """For no blink, only where somebody else waits for it, and not at the price of the last redeliveries."""
    counted = Delivery(
        queue="orders", exchange="", routing_key="orders", headers={names.HEADER_DELIVERY_COUNT: deliveries}
    )
    spec = PolicySpec(single_active=single_active)
    judged = Case(spec=spec, declared=(), waybill=Waybill(), bounds=Bounds(), budget=None)
    assert expected is judged.stands_by(counted, seconds)


def test_message_that_may_have_killed_moves_out_of_the_way() -> None:
    """It pays an attempt and waits for the shortest delay; without another attempt, or time, it is parked."""
    again = Delivery(queue="orders", exchange="", routing_key="orders", headers={}, redelivered=True)
    assert Again(0.125, 250, Cost.ATTEMPT) == case(classic_guard=True).on_arrival(again, NOW)
    crashing = Parked(Reason.CRASH_LOOP, None)
    assert crashing == case(Waybill(attempt=3), classic_guard=True).on_arrival(again, NOW)
    assert crashing == case(bounds=PASSED, classic_guard=True).on_arrival(again, NOW)


def test_policy_without_retry_parks() -> None:
    """The reason is the deadline if that has passed, else that there is no other attempt."""
    for bounds, reason in ((Bounds(), Reason.MAX_ATTEMPTS), (PASSED, Reason.DEADLINE)):
        single = Case(spec=PolicySpec(), declared=(), waybill=Waybill(), bounds=bounds, budget=None)
        assert Parked(reason, ERROR) == single.after(ERROR, NOW, 0.0)


# All of it together.


@given(
    error=st.sampled_from([None, ERROR, KeyError(), CircuitOpen("x", 3.0), DEFERRING]),
    attempt=st.integers(1, 4),
    deferrals=st.integers(0, 3),
    retries=st.integers(0, 3),
    limit=st.none() | st.integers(0, 3),
    left=st.none() | st.floats(-1.0, 10.0),
    since=st.none() | st.floats(0.0, 20.0),
    affords=st.booleans(),
    u=st.floats(0, 1, exclude_max=True),
)
def test_questions_are_asked_in_their_order(  # noqa: PLR0913 - one for each fact that a question is about
    *,
    error: BaseException | None,
    attempt: int,
    deferrals: int,
    retries: int,
    limit: int | None,
    left: float | None,
    since: float | None,
    affords: bool,
    u: float,
) -> None:
    """Permanent, deadline, attempts, retries of the request, too late, too long, budget: in this order."""
    first = None if since is None else round((NOW.wall - since) * 1000)
    waybill = Waybill(
        attempt=attempt,
        retries=retries,
        retry_limit=limit,
        hop=Hop(deferrals=deferrals, first_failed_at=first),
    )
    bounds = Bounds(due=None if left is None else NOW.monotonic + left)
    judged = case(waybill, bounds, lambda _: affords, park=KeyError, elapsed=15.0, max_deferrals=2)
    ruling = judged.after(error, NOW, u)

    free = deferrals < 2
    defers = free and isinstance(error, CircuitOpen) and error.defer
    due = math.inf if bounds.due is None else bounds.due - NOW.monotonic
    elapsed = 0.0 if first is None else NOW.wall - first / 1000
    questions = [
        (Reason.PERMANENT, isinstance(error, KeyError)),
        (Reason.DEADLINE, due <= 0),
        (Reason.MAX_ATTEMPTS, not defers and attempt >= 3),
        (Reason.RETRY_LIMIT, not defers and limit is not None and retries >= limit),
    ]
    reason = next((reason for reason, holds in questions if holds), None)
    if reason is not None:
        assert Parked(reason, error) == ruling
    elif isinstance(ruling, Parked):
        assert ruling.reason in {Reason.DEADLINE_BEFORE_RETRY, Reason.MAX_ELAPSED}
        assert due < 8.0 or elapsed + 8.0 > 15.0
    else:
        assert isinstance(ruling, Again)
        assert ruling.rung in RUNGS
        assert ruling.seconds < due
        assert ruling.seconds + elapsed <= 15.0
        assert ruling.cost is (Cost.DEFERRAL if defers or (free and not affords) else Cost.ATTEMPT)
