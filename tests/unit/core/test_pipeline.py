"""The pipeline: what becomes of one delivery, whatever happens to it."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from otel_waybill import names
from otel_waybill.core.backoff import Backoff
from otel_waybill.core.delivery import Instant, Outcome, Reason, Result
from otel_waybill.core.events import (
    Confirmed,
    Ended,
    RunStarted,
    Unconfirmed,
)
from otel_waybill.core.retry import Retry
from otel_waybill.core.spec import PolicySpec, Settle
from otel_waybill.core.topology import RUNGS, delay_name, rung
from otel_waybill.core.verdicts import (
    Ack,
    Cancelled,
    GiveBack,
    Gone,
    Leave,
    Published,
    Raised,
    Report,
    Republish,
    Returned,
    Run,
    Settled,
    Step,
    Wait,
    Waited,
)
from otel_waybill.core.waybill import LARGEST_COUNT, Hop, Waybill
from otel_waybill.errors import CircuitOpen
from unit.core.story import (
    DELIVERY,
    HELD,
    OPENED,
    RELEASED,
    SPEC,
    START,
    STARTED,
    STEADY,
    STOPPED,
    WALL,
    Story,
    Turnstile,
    due_in,
    failed,
    parked,
    the,
)

chances = st.floats(0, 1, exclude_max=True)


# A run and what follows from it.


def test_handled_message_is_acknowledged() -> None:
    """A handler that returns has its message acknowledged, and whoever listens is told."""
    story = Story()
    assert Step(Run(attempt=1), (STARTED,)) == story.begin()
    outcome = Outcome(result=Result.HANDLED, attempt=1)
    ended = Ended(queue="orders", outcome=outcome)
    assert Step(Ack(outcome=outcome), (STOPPED, ended)) == story.tell(Returned())


def test_failed_message_goes_to_the_ladder_before_it_is_acknowledged() -> None:
    """A failed message is acknowledged only after the broker has its copy, which says that run 2 is next."""
    story, error = Story(), ValueError("no such order")
    step = failed(story, error=error)
    copy = the(Republish, step)
    assert (STOPPED,) == step.events
    assert (delay_name(1000), "orders") == (copy.exchange, copy.routing_key)
    assert "2" == copy.headers[names.HEADER_ATTEMPT]
    assert (2, 1, "4711") == (copy.waybill.attempt, copy.waybill.retries, copy.waybill.id)
    outcome = Outcome(result=Result.RETRIED, attempt=1, delay=1.0, error=error)
    assert outcome == copy.outcome
    confirmed, ended = Confirmed(queue="orders", seconds=0.25), Ended(queue="orders", outcome=outcome)
    assert Step(Ack(outcome=outcome), (confirmed, ended)) == story.tell(Published(), 0.25)


def test_message_without_an_id_gets_one_with_its_first_copy() -> None:
    """A message that has no id can still be followed from attempt to attempt."""
    assert "made-up" == the(Republish, failed(Story(waybill=Waybill()))).waybill.id
    assert "made-up" == the(Republish, failed(Story(PolicySpec(), waybill=Waybill()))).waybill.id


def test_policy_without_retry_parks_on_the_first_failure() -> None:
    """Whoever asks for no retries gets none, and loses nothing."""
    assert Reason.MAX_ATTEMPTS is parked(failed(Story(PolicySpec())))


@pytest.mark.parametrize(
    "report", [Raised(ValueError(), Settled.ACK), Returned(Settled.ACK), Cancelled(Settled.ACK)]
)
def test_handler_that_acked_itself_has_the_last_word(report: Report) -> None:
    """Whatever comes after the handler's own ack changes nothing: handled, and nothing is sent twice."""
    gate = Turnstile()
    story = Story(breaker=gate)
    story.begin()
    assert Outcome(result=Result.HANDLED, attempt=1) == the(Leave, story.tell(report)).outcome
    assert ["succeeded"] == gate.closings()


@pytest.mark.parametrize("settle", ["return", "handler"])
def test_refusal_is_a_failure(settle: Settle) -> None:
    """A nack of the handler's own is retried with a delay instead of coming back at once."""
    story = Story(replace(SPEC, settle=settle))
    story.begin()
    assert delay_name(1000) == the(Republish, story.tell(Returned(Settled.REFUSED))).exchange


def test_refusal_and_an_exception_are_one_failure() -> None:
    """A handler that nacks and then raises has failed once, with that exception."""
    story, error = Story(), ValueError()
    story.begin()
    assert error is the(Republish, story.tell(Raised(error, Settled.REFUSED))).outcome.error


def test_return_without_settling_leaves_the_delivery_to_the_program() -> None:
    """A program that acknowledges later from elsewhere may, and keeps no place at the breaker."""
    gate = Turnstile()
    story = Story(replace(SPEC, settle="handler"), breaker=gate)
    story.begin()
    assert Result.OPEN is the(Leave, story.tell(Returned())).outcome.result
    assert ["released"] == gate.closings()


def test_late_ack_ends_an_open_delivery() -> None:
    """An ack that comes minutes after the handler returned is success, and nothing is sent on top of it."""
    story = Story(replace(SPEC, settle="handler"))
    story.begin()
    story.tell(Returned())
    assert Result.HANDLED is the(Leave, story.tell(Returned(Settled.ACK), 600.0)).outcome.result


def test_late_refusal_retries_an_open_delivery() -> None:
    """A nack that comes minutes after the handler returned is a failure like any other."""
    story = Story(replace(SPEC, settle="handler"))
    story.begin()
    story.tell(Returned())
    assert Result.RETRIED is the(Republish, story.tell(Returned(Settled.REFUSED), 600.0)).outcome.result


def test_cancelled_run_gives_the_message_back_uncounted() -> None:
    """A shutdown in the middle of a run costs no attempt and is no failure of the dependency."""
    gate = Turnstile()
    story = Story(breaker=gate)
    story.begin()
    assert Outcome(result=Result.GIVEN_BACK, attempt=1) == the(GiveBack, story.tell(Cancelled())).outcome
    assert ["released"] == gate.closings()


def test_channel_that_is_gone_leaves_everything_to_the_broker() -> None:
    """When the channel has gone, nothing is sent: the broker has taken the message back."""
    gate = Turnstile([3.0])
    story = Story(breaker=gate)
    the(Wait, story.begin())
    assert Result.GIVEN_BACK is the(Leave, story.tell(Gone())).outcome.result


def test_channel_that_goes_during_a_run_returns_the_permit() -> None:
    """A connection that breaks under a handler does not cost the breaker one of its places."""
    gate = Turnstile()
    story = Story(breaker=gate)
    story.begin()
    the(Leave, story.tell(Gone()))
    assert ["released"] == gate.closings()


def test_copy_nobody_asked_for_is_a_fault() -> None:
    """A driver that reports a copy out of nowhere is stopped, before a message is acknowledged for it."""
    story = Story()
    story.begin()
    with pytest.raises(RuntimeError, match=r"^a copy was reported published, but none was asked for$"):
        story.tell(Published())


@pytest.mark.parametrize(
    ("spec", "report"),
    [
        (SPEC, Returned()),
        (SPEC, Returned(Settled.ACK)),
        (SPEC, Returned(Settled.REFUSED)),
        (SPEC, Raised(ValueError())),
        (SPEC, Raised(ValueError(), Settled.ACK)),
        (replace(SPEC, retry=Retry(ignore=ValueError)), Raised(ValueError())),
    ],
)
def test_breaker_is_asked_and_told_at_each_moment_and_by_its_chance(spec: PolicySpec, report: Report) -> None:
    """What a breaker decides depends on time and chance: those of the moment, not of the one before."""
    gate = Turnstile([3.0])
    story = Story(spec, breaker=gate)
    the(Wait, story.begin(u=0.1))
    the(Run, story.tell(Waited(), 3.0, u=0.2))
    story.tell(report, 4.0, u=0.3)
    assert [(START, 0.1), (START + 3.0, 0.2), (START + 7.0, 0.3)] == gate.asked


def test_chance_spreads_the_retry_of_a_refusal() -> None:
    """A nack has no exception and waits like any failure."""
    story = Story(replace(SPEC, retry=Retry(backoff=Backoff(first=8.0, ceiling=8.0))))
    story.begin()
    step = story.tell(Returned(Settled.REFUSED), u=0.5)
    assert delay_name(8000) == the(Republish, step).exchange


@pytest.mark.parametrize("refuse", [True, False])
def test_run_says_whether_it_may_publish_when_it_is_late(*, refuse: bool) -> None:
    """The policy decides, and whoever performs the run is told."""
    assert refuse is the(Run, Story(replace(SPEC, refuse_publish=refuse)).begin()).strict


# The order of the questions after a failure.


def test_attempts_used_up() -> None:
    """The last attempt that fails parks the message, and tells how often it was tried."""
    copy = failed(Story(waybill=Waybill(id="4711", attempt=3, hop=Hop())))
    assert Reason.MAX_ATTEMPTS is parked(copy)
    assert 3 == the(Republish, copy).outcome.attempt


def test_retries_of_the_request_used_up() -> None:
    """A request that has cost its retries on other hops is not retried here either."""
    assert Reason.RETRY_LIMIT is parked(failed(Story(waybill=Waybill(retries=10, retry_limit=10))))
    assert Reason.RETRY_LIMIT is parked(failed(Story(waybill=Waybill(retry_limit=0))))
    the(Republish, failed(Story(waybill=Waybill(retries=9, retry_limit=10))))


def test_deadline_passed_while_running() -> None:
    """What failed after its deadline is parked as such, whatever else may be said about it."""
    assert Reason.DEADLINE is parked(failed(Story(waybill=due_in(5.0, attempt=3, retry_limit=0)), 6.0))


def test_deadline_before_the_retry() -> None:
    """A retry that would come too late is not waited for: the message is parked at once."""
    assert Reason.DEADLINE_BEFORE_RETRY is parked(failed(Story(waybill=due_in(5.0)), 5.5))


def test_the_rounded_delay_decides() -> None:
    """What counts is when the broker would hand the message out again: 1.2 s become 1.414 s."""
    spec = replace(SPEC, retry=Retry(backoff=Backoff(first=1.2, ceiling=30.0, jitter="none")))
    assert Reason.DEADLINE_BEFORE_RETRY is parked(failed(Story(spec, waybill=due_in(0.25))))
    assert 1.414 == the(Republish, failed(Story(spec, waybill=due_in(0.5)))).outcome.delay


@given(
    attempt=st.integers(1, 5),
    attempts=st.integers(1, 5),
    retries=st.integers(0, 3),
    limit=st.none() | st.integers(0, 3),
    left=st.none() | st.floats(0.0, 100.0),
    elapsed=st.floats(0.0, 100.0),
    u=chances,
)
def test_questions_come_in_the_order_of_the_design(  # noqa: PLR0913 - one for each fact that a question is about
    *,
    attempt: int,
    attempts: int,
    retries: int,
    limit: int | None,
    left: float | None,
    elapsed: float,
    u: float,
) -> None:
    """Deadline, attempts, retries of the request, deadline before the retry, else retry: in this order."""
    spec = PolicySpec(retry=Retry(attempts=attempts, backoff=Backoff()))
    deadline = None if left is None else WALL + left
    story = Story(
        spec,
        waybill=Waybill(attempt=attempt, retries=retries, retry_limit=limit, deadline=deadline, id="4711"),
    )
    due = story.execution._bounds.due
    copy = the(Republish, failed(story, elapsed, u=u))
    wait = (rung(Backoff().delay(attempt, u), RUNGS) or math.nan) / 1000
    questions = [
        (Reason.DEADLINE, due is not None and story.now >= due),
        (Reason.MAX_ATTEMPTS, attempt >= attempts),
        (Reason.RETRY_LIMIT, limit is not None and retries >= limit),
        (Reason.DEADLINE_BEFORE_RETRY, due is not None and story.now + wait >= due),
        (None, True),
    ]
    assert next(reason for reason, holds in questions if holds) is copy.outcome.reason


# Deadlines.


def test_expired_message_never_reaches_the_handler() -> None:
    """Work that is not worth doing any more is not started."""
    story = Story(waybill=due_in(-2.0))
    assert Reason.DEADLINE is parked(story.begin())
    assert Result.PARKED is the(Ack, story.tell(Published())).outcome.result


def test_clocks_may_differ_by_the_tolerance() -> None:
    """A deadline that seems to have passed by less than the tolerance still counts as met."""
    the(Run, Story(waybill=due_in(-0.5)).begin())
    assert Reason.DEADLINE is parked(Story(waybill=due_in(-1.0)).begin())
    assert Reason.DEADLINE is parked(Story(replace(SPEC, skew_tolerance=0.0), waybill=due_in(0.0)).begin())


def test_deadline_is_measured_on_the_monotonic_clock() -> None:
    """A wall clock that jumps while the message is here changes nothing about its deadline."""
    story = Story(waybill=due_in(10.0))
    assert START + 11.0 == story.execution._bounds.due
    assert (
        Run(attempt=1, due=START + 11.0) == story.execution.start(Instant(START, WALL + 9999.0), 0.0).verdict
    )


def test_remaining_is_what_the_message_says() -> None:
    """What is left, as traces show it, does not contain the tolerance; without a deadline there is none."""
    assert 7.0 == Story(waybill=due_in(10.0)).execution.remaining(START + 3.0)
    assert Story().execution.remaining(START) is None


def test_deadline_that_passes_while_held_parks_in_time() -> None:
    """What an open breaker holds is parked when its deadline passes, not when the breaker closes."""
    story = Story(waybill=due_in(2.0), breaker=Turnstile([60.0, 60.0]))
    wait = the(Wait, story.begin(1.0)).seconds
    assert 2.0 == wait
    assert Reason.DEADLINE is parked(story.tell(Waited(), wait))


@given(left=st.floats(-1.0, 100.0, exclude_min=True), refused=st.floats(0.01, 100.0))
def test_holding_never_spins(left: float, refused: float) -> None:
    """Whatever is left until the deadline, a held delivery wakes up a handful of times, not in a loop."""
    story = Story(waybill=due_in(left), breaker=Turnstile([refused] * 20_000))
    assume(story.execution._bounds.due is not None and story.execution._bounds.due > story.now)
    step, wakes = story.begin(), 0
    while isinstance(step.verdict, Wait):
        assert 0 < step.verdict.seconds <= refused
        wakes += 1
        step = story.tell(Waited(), step.verdict.seconds)
    assert Reason.DEADLINE is parked(step)
    assert wakes <= (left + 1.0) / refused + 3


def test_expiration_bounds_retrying() -> None:
    """A message that was to live for 5 s is not retried after them, although its copy has no expiration."""
    delivery = DELIVERY._replace(expiration="5000")
    assert Result.RETRIED is the(Republish, failed(Story(delivery=delivery), 3.5)).outcome.result
    assert Reason.DEADLINE_BEFORE_RETRY is parked(failed(Story(delivery=delivery), 4.0))


def test_expiration_bounds_retrying_over_all_attempts() -> None:
    """Later attempts count from the first failure, so that retries do not make a message live for ever."""
    first_failed_at = round((WALL - 3.0) * 1000)
    retried = Waybill(id="4711", attempt=2, hop=Hop(expiration="5000", first_failed_at=first_failed_at))
    assert Reason.DEADLINE_BEFORE_RETRY is parked(failed(Story(waybill=retried)))
    fresh = Waybill(id="4711", attempt=2, hop=Hop(expiration="9000", first_failed_at=first_failed_at))
    assert Result.RETRIED is the(Republish, failed(Story(waybill=fresh))).outcome.result
    unknown = Waybill(id="4711", attempt=2, hop=Hop(expiration="5000"))
    assert Result.RETRIED is the(Republish, failed(Story(waybill=unknown))).outcome.result


def test_expiration_that_makes_no_sense_bounds_nothing() -> None:
    """An expiration that no broker would accept is read as none."""
    assert (
        Result.RETRIED
        is the(Republish, failed(Story(delivery=DELIVERY._replace(expiration="soon")))).outcome.result
    )


# Waits in this process.


def test_very_short_backoff_runs_again_here() -> None:
    """A wait too short for a trip through the broker is held, and costs an attempt all the same."""
    spec = PolicySpec(retry=Retry(attempts=2, backoff=Backoff(first=0.1, ceiling=0.1, jitter="none")))
    gate = Turnstile()
    story = Story(spec, waybill=Waybill(), breaker=gate)
    assert 0.1 == the(Wait, failed(story, 5.0)).seconds
    assert (2, 1, "made-up") == (
        story.execution.waybill.attempt,
        story.execution.waybill.retries,
        story.execution.waybill.id,
    )
    run = the(Run, story.tell(Waited(), 0.1))
    assert 2 == run.attempt
    assert run.held == pytest.approx(0.1)
    assert Reason.MAX_ATTEMPTS is parked(story.tell(Raised(ValueError())))
    assert ["failed", "failed"] == gate.closings()


def test_first_failure_is_remembered_here_too() -> None:
    """A message that waited in this process says when its trouble began, not when it was given up."""
    spec = PolicySpec(retry=Retry(attempts=2, backoff=Backoff(first=0.1, ceiling=0.1, jitter="none")))
    story = Story(spec)
    failed(story, 5.0)
    story.tell(Waited(), 0.125)
    copy = the(Republish, story.tell(Raised(ValueError()), 60.0))
    expected = ("1764000005000", "1764000065125", "shop")
    assert expected == (
        copy.headers[names.HEADER_FIRST_FAILED_AT],
        copy.headers[names.HEADER_FAILED_AT],
        copy.headers[names.HEADER_ORIGIN_EXCHANGE],
    )


def test_short_wait_past_the_deadline_is_not_waited() -> None:
    """A run again in this process has to be in time like any other."""
    spec = PolicySpec(retry=Retry(backoff=Backoff(first=0.1, ceiling=0.1, jitter="none")), skew_tolerance=0.0)
    assert Reason.DEADLINE_BEFORE_RETRY is parked(failed(Story(spec, waybill=due_in(0.05))))


def test_holding_without_a_ladder_is_bounded() -> None:
    """An error that asks for an hour where there is no rung holds the message no longer than hold_max."""
    spec = PolicySpec(retry=Retry(backoff=Backoff(first=0.1, ceiling=0.1)), hold_max=20.0)
    assert 20.0 == the(Wait, failed(Story(spec), error=CircuitOpen("inventory", 3600.0))).seconds


def test_counts_stay_readable() -> None:
    """Even the largest attempt number is one that the next reader believes."""
    spec = replace(SPEC, retry=Retry(attempts=2 * LARGEST_COUNT, backoff=STEADY))
    largest = Waybill(id="4711", attempt=LARGEST_COUNT, retries=LARGEST_COUNT)
    again = the(Republish, failed(Story(spec, waybill=largest))).waybill
    assert (LARGEST_COUNT, LARGEST_COUNT) == (again.attempt, again.retries)


# The breaker.


def test_open_breaker_holds_and_tells() -> None:
    """While the dependency is down the message waits here, uncounted; listeners hear of it once."""
    story = Story(breaker=Turnstile([3.0, 2.0]))
    assert Step(Wait(seconds=3.0), (HELD,)) == story.begin()
    assert Step(Wait(seconds=2.0)) == story.tell(Waited(), 3.0)
    step = story.tell(Waited(), 2.0)
    run = the(Run, step)
    assert (1, 5.0) == (run.attempt, run.held)
    assert (RELEASED, STARTED) == step.events


def test_what_is_held_is_released_however_it_ends() -> None:
    """A count of held deliveries goes down again: when they are parked, given back or gone as well."""
    for report in (Waited(), Cancelled(), Gone()):
        story = Story(waybill=due_in(2.0), breaker=Turnstile([3.0]))
        assert (HELD,) == story.begin().events
        assert 1 == story.tell(report, 3.0).events.count(RELEASED)


def test_change_of_the_breaker_is_told() -> None:
    """Every change of the breaker that a delivery brings about is told, before what follows from it."""
    story = Story(breaker=Turnstile(changed=OPENED))
    assert (OPENED, STARTED) == story.begin().events
    assert OPENED == story.tell(Returned()).events[0]
    assert OPENED == failed(Story(breaker=Turnstile(changed=OPENED))).events[0]
    assert OPENED == Story(breaker=Turnstile([1.0], OPENED)).begin().events[0]


def test_failure_counts_against_the_breaker() -> None:
    """A run that fails is a failure of the dependency without which it cannot work."""
    gate = Turnstile()
    failed(Story(breaker=gate))
    assert ["failed"] == gate.closings()


@pytest.mark.parametrize("error", [ValueError(), CircuitOpen("inventory", 1.0)])
def test_the_breaker_judges_what_a_run_raised(error: Exception) -> None:
    """Whether an exception counts is a setting of the breaker, not of the policy."""
    gate = Turnstile()
    failed(Story(breaker=gate), error=error)
    assert [error] == gate.errors


def test_what_a_permit_that_comes_back_has_to_tell_is_told() -> None:
    """Also a run that is not counted is one that the breaker let in."""
    for report in (Cancelled(), Gone(), Returned()):
        story = Story(replace(SPEC, settle="handler"), breaker=Turnstile(changed=OPENED))
        story.begin()
        assert OPENED in story.tell(report).events


def test_refused_call_waits_until_it_is_worth_trying_again() -> None:
    """The retry after CircuitOpen comes when the breaker says so, or later if the backoff does."""
    assert delay_name(2000) == the(Republish, failed(Story(), error=CircuitOpen("inventory", 1.5))).exchange
    assert delay_name(1000) == the(Republish, failed(Story(), error=CircuitOpen("inventory", 0.2))).exchange


# Crash loops.


@pytest.mark.parametrize("count", [19, b"19", "19", None, "many", -1, True])
def test_redeliveries_within_the_limit_run(count: object) -> None:
    """What the broker hands out again runs again, and no value of its header stops a consumer."""
    the(Run, Story(delivery=DELIVERY._replace(headers={names.HEADER_DELIVERY_COUNT: count})).begin())


def test_crash_loop_is_parked() -> None:
    """A message that kills its consumers is parked before it kills the next one, attempts uncounted."""
    story = Story(delivery=DELIVERY._replace(headers={names.HEADER_DELIVERY_COUNT: 20}))
    step = story.begin()
    assert Reason.CRASH_LOOP is parked(step)
    assert 1 == the(Republish, step).outcome.attempt


def test_no_redelivery_at_all() -> None:
    """With redeliveries=1 the first run is free, since the broker counts from 0, and the second is none."""
    spec = replace(SPEC, retry=Retry(redeliveries=1))
    the(Run, Story(spec, DELIVERY._replace(headers={names.HEADER_DELIVERY_COUNT: 0})).begin())
    assert Reason.CRASH_LOOP is parked(
        Story(spec, DELIVERY._replace(headers={names.HEADER_DELIVERY_COUNT: 1})).begin()
    )


def test_policy_without_retry_counts_redeliveries_too() -> None:
    """A message that kills its consumers is parked before the broker drops it, whatever the policy says."""
    the(Run, Story(PolicySpec(), DELIVERY._replace(headers={names.HEADER_DELIVERY_COUNT: 19})).begin())
    story = Story(PolicySpec(), DELIVERY._replace(headers={names.HEADER_DELIVERY_COUNT: 20}))
    assert Reason.CRASH_LOOP is parked(story.begin())


# Copies that the broker does not confirm.


def test_unconfirmed_copy_is_tried_again_and_then_given_back() -> None:
    """Without proof nothing is acknowledged: the same copy is tried until hold_max, then given back."""
    story = Story(replace(SPEC, hold_max=10.0))
    copy = the(Republish, failed(story))
    waits = []
    step = story.tell(Published("no confirm within 5 s"))
    while isinstance(step.verdict, Wait):
        assert (Unconfirmed(queue="orders", error="no confirm within 5 s"),) == step.events
        waits.append(step.verdict.seconds)
        assert copy is story.tell(Waited(), step.verdict.seconds).verdict
        step = story.tell(Published("no confirm within 5 s"))
    assert [0.5, 1.0, 2.0, 4.0, 8.0] == waits
    assert Outcome(result=Result.GIVEN_BACK, attempt=1) == the(GiveBack, step).outcome


def test_copy_is_given_up_at_hold_max() -> None:
    """Not before, and not later than exactly then."""
    story = Story(replace(SPEC, hold_max=10.0))
    failed(story)
    the(Wait, story.tell(Published("blocked"), 9.5))
    the(GiveBack, story.tell(Published("blocked"), 0.5))


def test_pauses_between_tries_stop_growing() -> None:
    """A broker that stays blocked for long is asked every 30 s, so that its return is noticed."""
    story = Story(replace(SPEC, hold_max=500.0))
    failed(story)
    for _ in range(6):
        wait = the(Wait, story.tell(Published("blocked"))).seconds
        story.tell(Waited(), wait)
    assert 30.0 == the(Wait, story.tell(Published("blocked"))).seconds


def test_copy_that_gets_through_at_last_ends_the_delivery() -> None:
    """A copy that is confirmed at the second try is as good as at the first."""
    story = Story()
    failed(story)
    story.tell(Published("nack"))
    story.tell(Waited(), 0.5)
    assert Result.RETRIED is the(Ack, story.tell(Published())).outcome.result


def test_shutdown_while_a_copy_is_unconfirmed_gives_back() -> None:
    """A program that ends while its copy is in doubt returns the message: twice is better than never."""
    story = Story()
    failed(story)
    story.tell(Published("nack"))
    the(GiveBack, story.tell(Cancelled()))


def test_shutdown_after_the_confirm_is_no_reason_to_do_it_twice() -> None:
    """A program that is stopped when the copy is safe already acknowledges the original."""
    story = Story()
    failed(story)
    step = story.tell(Cancelled(copied=True))
    assert Result.RETRIED is the(Ack, step).outcome.result
    assert isinstance(step.events[0], Confirmed)


def test_the_confirm_takes_as_long_as_the_copy_was_in_doubt() -> None:
    """Whoever measures the broker sees the time from the first try on, not that of the last one."""
    story = Story()
    failed(story)
    story.tell(Published("nack"), 1.0)
    story.tell(Waited(), 0.5)
    assert Confirmed(queue="orders", seconds=2.0) == story.tell(Published(), 0.5).events[0]


def test_time_left_is_told_when_a_run_starts() -> None:
    """Whoever measures deadlines learns what is left, without the tolerance."""
    assert (RunStarted(queue="orders", remaining=7.0),) == Story(waybill=due_in(10.0)).begin(3.0).events


def test_run_again_here_is_a_run_of_its_own() -> None:
    """Running handlers are counted up and down once for each run, also where no broker is in between."""
    spec = PolicySpec(retry=Retry(attempts=2, backoff=Backoff(first=0.1, ceiling=0.1, jitter="none")))
    story = Story(spec)
    assert (STOPPED,) == failed(story).events
    assert (STARTED,) == story.tell(Waited(), 0.1).events


def test_unknown_report_is_a_fault() -> None:
    """A driver that speaks nonsense is stopped."""
    story, nonsense = Story(), "nonsense"
    report: Any = nonsense
    story.begin()
    with pytest.raises(AssertionError, match=r"^nonsense$"):
        story.tell(report)


def test_policy_says_where_to_park_and_in_which_words() -> None:
    """Generated names share a key at a queue of the user's, and the text of an exception is the policy's."""
    nameless = DELIVERY._replace(queue="amq.gen-JzTY20BRgKO-HjmUJj0wLg")
    spec = PolicySpec(settle="return", parking="orders.dlq", describe=lambda _: "no details")
    for delivery, key in ((DELIVERY, "orders"), (nameless, "waybill.anonymous.orders.dlq")):
        story = Story(spec, delivery)
        story.begin()
        copy = the(Republish, story.tell(Raised(ValueError("secret"), None)))
        assert (names.PARKING_EXCHANGE, key) == (copy.exchange, copy.routing_key)
        assert "no details" == copy.headers[names.HEADER_EXCEPTION_MESSAGE]
