"""What comes before a run, and in its place: limits, early arrivals, expired messages and substitutes."""

import math
from dataclasses import replace

import pytest

from otel_waybill import names
from otel_waybill.core.backoff import Backoff
from otel_waybill.core.delivery import Delivery, Reason, Result
from otel_waybill.core.events import Ended, Held, Released
from otel_waybill.core.gate import Limits
from otel_waybill.core.limits import ConcurrencyLimit, RateLimit
from otel_waybill.core.line import Bell, Slots
from otel_waybill.core.retry import Retry
from otel_waybill.core.spec import OnExpired, PolicySpec
from otel_waybill.core.topology import delay_name
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
from otel_waybill.errors import CircuitOpen, RetryAfter
from unit.core.story import (
    DELIVERY,
    RETRY,
    SPEC,
    START,
    STARTED,
    STEADY,
    STOPPED,
    WALL,
    Line,
    Story,
    Turnstile,
    due_in,
    failed,
    parked,
    the,
)

SHORT = Backoff(first=0.1, ceiling=0.1, jitter="none")
IN_ORDER = PolicySpec(retry=Retry(attempts=3, backoff=STEADY, in_order=True), settle="return")
GUARDED = PolicySpec(retry=replace(RETRY, classic_guard=True), settle="return", fallback=True)
SINGLE = replace(SPEC, single_active=True)
RATED = replace(SPEC, rate=RateLimit(1))
REDELIVERED = DELIVERY._replace(redelivered=True)


def early(seconds: float, attempt: int = 2) -> Waybill:
    """A waybill of a message whose wait ends in so many seconds."""
    hop = Hop(first_failed_at=1, not_before=round((WALL + seconds) * 1000))
    return Waybill(attempt=attempt, retries=1, id="4711", hop=hop)


# Limits.


def test_delivery_waits_for_a_place_until_it_is_called() -> None:
    """Who waits for a place is told to whoever listens, and looks again only when the bell rings."""
    places = Line([math.inf])
    story = Story(limits=Limits(concurrency=places))
    step = story.begin()
    assert Step(Wait(seconds=60.0), (Held(queue="orders", limit="concurrency"),)) == step
    assert the(Wait, step).bell in places.known
    step = story.tell(Waited(), 500.0)
    assert (Released(queue="orders", limit="concurrency"), STARTED) == step.events
    assert 500.0 == the(Run, step).held
    the(Ack, story.tell(Returned()))
    assert set() == places.known


def test_delivery_waits_for_its_pace() -> None:
    """Who waits for a pace is told when to ask again, and keeps its place meanwhile."""
    places, pace = Line(), Line([2.5])
    story = Story(limits=Limits(places, pace))
    assert Step(Wait(seconds=2.5), (Held(queue="orders", limit="rate"),)) == story.begin()
    assert 1 == len(places.known)
    the(Run, story.tell(Waited(), 2.5))


def test_wait_for_a_limit_ends_with_the_deadline() -> None:
    """What is still in line when its deadline passes is parked, and nobody waits behind it."""
    places = Line([math.inf])
    story = Story(waybill=due_in(2.0), limits=Limits(places))
    assert 3.0 == the(Wait, story.begin()).seconds
    assert Reason.DEADLINE is parked(story.tell(Waited(), 3.0))
    assert set() == places.known


@pytest.mark.parametrize("report", [Cancelled(), Gone()])
def test_delivery_that_goes_leaves_every_line(report: Report) -> None:
    """A shutdown or a lost channel blocks nobody who shares a limit with this delivery."""
    for refusals in ([math.inf], []):
        places, pace = Line(refusals), Line([5.0])
        story = Story(limits=Limits(places, pace))
        the(Wait, story.begin())
        story.tell(report)
        assert set() == places.known | pace.known


def test_place_is_given_up_during_a_backoff() -> None:
    """A message that waits to run again keeps nobody from running, and takes its turn anew."""
    places, gate = Line(), Turnstile()
    story = Story(replace(SPEC, retry=Retry(backoff=SHORT)), breaker=gate, limits=Limits(places))
    the(Wait, failed(story))
    assert set() == places.known
    places.refusals.append(math.inf)
    assert 60.0 == the(Wait, story.tell(Waited(), 0.1)).seconds


def test_place_is_given_up_before_the_copy() -> None:
    """While the broker takes its time to confirm a copy, another message runs."""
    places = Line()
    story = Story(limits=Limits(places))
    the(Republish, failed(story))
    assert set() == places.known


def test_delivery_left_open_keeps_no_place() -> None:
    """Nobody knows when the program will settle, so others go on."""
    places = Line()
    story = Story(replace(SPEC, settle="handler"), limits=Limits(places))
    story.begin()
    assert Result.OPEN is the(Leave, story.tell(Returned())).outcome.result
    assert set() == places.known


# Held for too long.


def test_held_delivery_is_put_off_in_the_end() -> None:
    """After hold_max the message goes away over the ladder: uncounted, not failed, and back in line later."""
    gate, pace = Turnstile([60.0] * 9), Line()
    story = Story(replace(RATED, hold_max=100.0), breaker=gate, limits=Limits(rate=pace))
    assert 60.0 == the(Wait, story.begin()).seconds
    assert 40.0 == the(Wait, story.tell(Waited(), 60.0)).seconds
    assert 0.5 == the(Wait, story.tell(Waited(), 39.5)).seconds
    step = story.tell(Waited(), 0.5)
    copy = the(Republish, step)
    assert (delay_name(2000), Result.DEFERRED, 2.0) == (
        copy.exchange,
        copy.outcome.result,
        copy.outcome.delay,
    )
    assert (1, 0) == (copy.waybill.attempt, copy.waybill.retries)
    assert {names.HEADER_FIRST_FAILED_AT, names.HEADER_DEFERRALS}.isdisjoint(copy.headers)
    assert (Released(queue="orders", breaker="payments"),) == step.events
    assert set() == pace.known
    assert Result.DEFERRED is the(Ack, story.tell(Published())).outcome.result


def test_put_off_without_a_ladder_for_retries() -> None:
    """A policy that never retries can put off all the same."""
    spec = PolicySpec(rate=RateLimit(1), hold_max=1.0)
    story = Story(spec, limits=Limits(rate=Line([3600.0, 3599.0])))
    story.begin()
    copy = the(Republish, story.tell(Waited(), 1.0))
    assert (delay_name(32_000), 32.0) == (copy.exchange, copy.outcome.delay)


def test_time_held_starts_anew_with_every_hold() -> None:
    """What ran for ten minutes and is to run again is not sent away at the first refusal."""
    gate = Turnstile([200.0])
    story = Story(replace(SPEC, retry=Retry(backoff=SHORT)), breaker=gate)
    story.begin()
    the(Run, story.tell(Waited(), 200.0))
    the(Wait, story.tell(Raised(ValueError()), 600.0))
    gate.refusals.append(200.0)
    assert 200.0 == the(Wait, story.tell(Waited(), 0.1)).seconds


def test_time_in_line_for_a_place_is_not_held_against_anybody() -> None:
    """What waited for an hour until others were done may still wait for its pace."""
    limits = Limits(concurrency=Line([math.inf]), rate=Line([60.0]))
    story = Story(replace(RATED, concurrency=ConcurrencyLimit(1), hold_max=100.0), limits=limits)
    the(Wait, story.begin())
    assert 60.0 == the(Wait, story.tell(Waited(), 3600.0)).seconds


def test_put_off_message_is_judged_when_it_is_back() -> None:
    """Its deadline may pass while it is away: what that means is for on_expired to say, as ever."""
    story = Story(
        replace(SPEC, on_expired="ack", hold_max=1.0), waybill=due_in(5.0), breaker=Turnstile([60.0] * 3)
    )
    story.begin()
    assert Result.DEFERRED is the(Republish, story.tell(Waited(), 5.0)).outcome.result


def test_order_is_kept_however_long_it_takes() -> None:
    """With in_order a held message stays where it is: put off or given back, it would be overtaken."""
    story = Story(replace(IN_ORDER, rate=RateLimit(1), hold_max=1.0), breaker=Turnstile([60.0] * 99))
    step = story.begin()
    for _ in range(50):
        assert 60.0 == the(Wait, step).seconds
        step = story.tell(Waited(), 60.0)


def test_failed_message_keeps_its_place_in_order() -> None:
    """With in_order nobody runs while a failed message waits for its next run."""
    places = Slots(1)
    first, second = (Story(IN_ORDER, limits=Limits(places)) for _ in range(2))
    assert 1.0 == the(Wait, failed(first)).seconds
    assert 60.0 == the(Wait, second.begin()).seconds
    assert 2 == the(Run, first.tell(Waited(), 1.0)).attempt
    the(Ack, first.tell(Returned()))
    the(Run, second.tell(Waited()))


# A single active consumer.


def standing_by(refused: float, spec: PolicySpec = SINGLE, delivery: Delivery = DELIVERY) -> Step:
    """What becomes of a delivery that its breaker refuses for so many seconds."""
    return Story(spec, delivery, breaker=Turnstile([refused] * 2)).begin()


def test_single_active_consumer_leaves_its_queue_to_another() -> None:
    """Whoever alone gets messages and cannot handle them gives them back, and stands by for as long."""
    step = standing_by(5.0)
    assert (Result.GIVEN_BACK, 5.0) == (the(GiveBack, step).outcome.result, the(GiveBack, step).standby)
    assert [Ended(queue="orders", outcome=the(GiveBack, step).outcome)] == list(step.events)


def test_single_active_consumer_holds_when_leaving_is_not_worth_it() -> None:
    """For a blink, where others share the queue, or when the message has few redeliveries left."""
    the(Wait, standing_by(0.9))
    the(Wait, standing_by(5.0, SPEC))
    worn = DELIVERY._replace(headers={names.HEADER_DELIVERY_COUNT: 17})
    the(Wait, standing_by(5.0, delivery=worn))
    the(GiveBack, standing_by(5.0, delivery=worn._replace(headers={names.HEADER_DELIVERY_COUNT: 16})))


def test_single_active_consumer_holds_for_a_limit() -> None:
    """A pace or a place is the policy's own: another consumer has none of that message's."""
    the(Wait, Story(SINGLE, limits=Limits(rate=Line([5.0]))).begin())


# Too early.


def test_message_that_comes_back_early_goes_once_more() -> None:
    """Longer than the last rung: over the ladder again, uncounted, until the time has come."""
    story = Story(waybill=early(5.0))
    copy = the(Republish, story.begin())
    assert (delay_name(2000), Result.DEFERRED, 5.0) == (
        copy.exchange,
        copy.outcome.result,
        copy.outcome.delay,
    )
    assert (2, 1, 0) == (copy.waybill.attempt, copy.waybill.retries, the_hop(copy).deferrals)
    assert str(early(5.0).hop.not_before) == copy.headers[names.HEADER_NOT_BEFORE]  # type: ignore[union-attr]  # it has one
    assert "1" == copy.headers[names.HEADER_FIRST_FAILED_AT]


def test_last_leg_is_rounded_up_and_not_early() -> None:
    """What fits onto a rung needs no further look."""
    copy = the(Republish, Story(waybill=early(1.5)).begin())
    assert delay_name(2000) == copy.exchange
    assert names.HEADER_NOT_BEFORE not in copy.headers
    exact = the(Republish, failed(Story()))
    assert delay_name(1000) == exact.exchange
    assert names.HEADER_NOT_BEFORE not in exact.headers


def test_moment_too_early_is_waited_here() -> None:
    """A clock that differs a little does not send a message round again."""
    story = Story(waybill=early(0.1))
    assert 0.1 == pytest.approx(the(Wait, story.begin()).seconds)
    assert 2 == the(Run, story.tell(Waited(), 0.1)).attempt


@pytest.mark.parametrize("seconds", [0.0, -3600.0])
def test_message_in_time_runs(seconds: float) -> None:
    """Exactly then, or any time later."""
    the(Run, Story(waybill=early(seconds)).begin())


def test_long_wait_comes_round_exactly_once() -> None:
    """A wait of 100 s on rungs of 1 and 2 s ends after 100 s, with one run for all the trips."""
    delivery, waybill, trips = DELIVERY, Waybill(id="4711"), 0
    story = Story(delivery=delivery, waybill=waybill)
    step = failed(story, error=RetryAfter(100.0))
    while isinstance(step.verdict, Republish):
        trips += 1
        rung = int(step.verdict.exchange.rpartition(".")[2]) / 1000
        story, now = Story(waybill=step.verdict.waybill), story.now + rung
        story.now = now
        step = story.begin()
    assert 2 == the(Run, step).attempt
    assert 100.0 <= story.now - START <= 102.0
    assert 50 == trips


def the_hop(copy: Republish) -> Hop:
    """What *copy* remembers."""
    assert copy.waybill.hop is not None
    return copy.waybill.hop


# Put off without an attempt.


def test_breaker_that_defers_is_counted_apart() -> None:
    """A message put off by a breaker says so to whoever listens, and counts it on the wire."""
    error = CircuitOpen("inventory", 1.5, defer=True)
    copy = the(Republish, failed(Story(waybill=Waybill(id="4711", hop=Hop(deferrals=4))), error=error))
    assert (Result.DEFERRED, error, 2.0) == (copy.outcome.result, copy.outcome.error, copy.outcome.delay)
    assert ("1", "5") == (copy.headers[names.HEADER_ATTEMPT], copy.headers[names.HEADER_DEFERRALS])


def test_deferrals_stay_readable() -> None:
    """Even the largest count is one that the next reader believes."""
    spec = replace(SPEC, retry=replace(RETRY, max_deferrals=2 * LARGEST_COUNT))
    often = Waybill(hop=Hop(deferrals=LARGEST_COUNT))
    copy = the(Republish, failed(Story(spec, waybill=often), error=CircuitOpen("inventory", 1.0, defer=True)))
    assert LARGEST_COUNT == the_hop(copy).deferrals


def test_empty_budget_puts_off() -> None:
    """A retry beyond the budget comes later, and is told as what it is."""
    story = Story(budget=lambda _: False)
    copy = the(Republish, failed(story))
    assert (Result.DEFERRED, 30.0, 1) == (copy.outcome.result, copy.outcome.delay, copy.waybill.attempt)
    assert names.HEADER_NOT_BEFORE in copy.headers


def test_ignored_exception_counts_as_handled() -> None:
    """What is no failure is acknowledged, and is a success to the breaker."""
    gate = Turnstile()
    story = Story(replace(SPEC, retry=replace(RETRY, ignore=KeyError)), breaker=gate)
    step = failed(story, error=KeyError("known"))
    assert Result.HANDLED is the(Ack, step).outcome.result
    assert ["succeeded"] == gate.closings()
    assert STOPPED in step.events


# Expired before the run.


def expired(on_expired: OnExpired, fallback: bool = True) -> Story:  # noqa: FBT001, FBT002 - a policy's setting
    """A delivery that comes after its deadline."""
    spec = replace(SPEC, on_expired=on_expired, fallback=fallback)
    return Story(spec, waybill=due_in(-5.0, attempt=2, retry_limit=3))


def test_expired_message_may_run_all_the_same() -> None:
    """The handler runs without the deadline, for as long as it takes, and is retried without it."""
    story = expired("run")
    assert Run(attempt=2) == story.begin().verdict
    assert (None, None) == (story.execution.waybill.deadline, story.execution.remaining(story.now))
    copy = the(Republish, story.tell(Raised(ValueError()), 600.0))
    assert (Result.RETRIED, None) == (copy.outcome.result, copy.waybill.deadline)


def test_expired_message_that_runs_still_waits_its_turn() -> None:
    """Late or not, limits and breaker hold for it, and a deadline that passed wakes it no more."""
    spec = replace(SPEC, on_expired="run")
    story = Story(spec, waybill=due_in(1.0), breaker=Turnstile([5.0, 50.0]))
    assert 2.0 == the(Wait, story.begin()).seconds
    assert 50.0 == the(Wait, story.tell(Waited(), 2.0)).seconds
    the(Run, story.tell(Waited(), 50.0))


def test_expired_message_may_be_dropped() -> None:
    """Only by that explicit word is a message acknowledged that nobody has handled."""
    step = expired("ack").begin()
    assert (Result.DROPPED, None) == (the(Ack, step).outcome.result, the(Ack, step).outcome.reason)


def test_expired_message_may_go_to_the_substitute() -> None:
    """The handler is not called at all; when the substitute returns, the message is handled."""
    story = expired("fallback")
    assert Run(attempt=2, fallback=True) == story.begin().verdict
    assert Result.HANDLED is the(Ack, story.tell(Returned())).outcome.result


def test_substitute_that_fails_parks_as_expired() -> None:
    """The reason is the deadline, as if there had been no substitute."""
    story = expired("fallback")
    story.begin()
    assert Reason.DEADLINE is parked(story.tell(Raised(ValueError())))


def test_nobody_waits_behind_the_substitute() -> None:
    """A message that expires in line leaves it before its substitute runs, which may take long."""
    places = Line([math.inf])
    spec = replace(SPEC, on_expired="fallback", fallback=True)
    story = Story(spec, waybill=due_in(1.0), limits=Limits(places))
    story.begin()
    step = story.tell(Waited(), 2.0)
    assert the(Run, step).fallback
    assert (Released(queue="orders", limit="concurrency"), STARTED) == step.events
    assert set() == places.known


def test_substitute_keeps_the_place_where_order_is_kept() -> None:
    """With in_order the next message waits until the substitute of this one is done."""
    places = Slots(1)
    spec = replace(IN_ORDER, on_expired="fallback", fallback=True)
    story = Story(spec, waybill=due_in(1.5, attempt=1), limits=Limits(places))
    the(Wait, failed(story, 0.5))
    assert the(Run, story.tell(Waited(), 5.0)).fallback
    assert math.inf == places.ask(Bell(), 0.0)


# In place of parking.


def substituted(spec: PolicySpec = SPEC) -> tuple[Story, Line]:
    """A delivery whose last attempt has failed, with its substitute called."""
    places = Line()
    waybill = Waybill(id="4711", attempt=3, hop=Hop(first_failed_at=1))
    story = Story(replace(spec, fallback=True), waybill=waybill, limits=Limits(places))
    step = failed(story, error=KeyError("first"))
    assert Run(attempt=3, fallback=True) == step.verdict
    assert (STOPPED, STARTED) == step.events
    return story, places


def test_substitute_is_called_before_a_message_is_parked() -> None:
    """After the last attempt, in the place of the handler and under the same limit."""
    story, places = substituted()
    assert 1 == len(places.known)
    step = story.tell(Returned())
    assert (Result.HANDLED, 3) == (the(Ack, step).outcome.result, the(Ack, step).outcome.attempt)
    assert step.events[0] == STOPPED
    assert set() == places.known


@pytest.mark.parametrize("report", [Raised(ValueError("second")), Returned(Settled.REFUSED)])
def test_substitute_that_fails_parks_with_the_first_reason(report: Report) -> None:
    """Whoever looks at the parked message sees why the handler failed; the substitute is called once."""
    story, places = substituted()
    step = story.tell(report)
    assert Reason.MAX_ATTEMPTS is parked(step)
    assert "KeyError" == the(Republish, step).headers[names.HEADER_EXCEPTION_TYPE]
    assert (STOPPED,) == step.events
    assert set() == places.known


def test_substitute_may_acknowledge_itself() -> None:
    """Its own ack is respected, also when it raises afterwards."""
    for report in (Returned(Settled.ACK), Raised(ValueError(), Settled.ACK)):
        story, _ = substituted()
        assert Result.HANDLED is the(Leave, story.tell(report)).outcome.result


def test_substitute_need_not_settle() -> None:
    """Where handlers settle by themselves, its return is success all the same."""
    story, _ = substituted(replace(SPEC, settle="handler"))
    assert Result.HANDLED is the(Ack, story.tell(Returned())).outcome.result


def test_stopped_substitute_gives_the_message_back() -> None:
    """A shutdown in the middle of it costs nothing."""
    story, places = substituted()
    the(GiveBack, story.tell(Cancelled()))
    assert set() == places.known


def test_substitute_is_not_called_for_a_retry() -> None:
    """While there are attempts left, the message is retried."""
    assert Result.RETRIED is the(Republish, failed(Story(replace(SPEC, fallback=True)))).outcome.result


def test_crash_loop_has_no_substitute() -> None:
    """What has killed its consumers would kill them there as well."""
    worn = DELIVERY._replace(headers={names.HEADER_DELIVERY_COUNT: 20})
    assert Reason.CRASH_LOOP is parked(Story(replace(SPEC, fallback=True), worn).begin())


# Classic queues.


def test_redelivered_message_moves_out_of_the_way() -> None:
    """On a classic queue, which does not count, it may have killed its consumer: it waits and pays."""
    copy = the(Republish, Story(GUARDED, REDELIVERED).begin())
    assert (delay_name(250), Result.RETRIED) == (copy.exchange, copy.outcome.result)
    assert (2, 1) == (copy.waybill.attempt, copy.waybill.retries)
    assert str(round(WALL * 1000)) == copy.headers[names.HEADER_FIRST_FAILED_AT]


@pytest.mark.parametrize(
    ("delivery", "spec"),
    [
        (DELIVERY, GUARDED),
        (REDELIVERED._replace(headers={names.HEADER_DELIVERY_COUNT: 1}), GUARDED),
        (REDELIVERED, SPEC),
        (REDELIVERED, PolicySpec()),
    ],
)
def test_other_messages_run_where_they_are(delivery: Delivery, spec: PolicySpec) -> None:
    """One that comes for the first time, one that its queue counts, and all where nobody asked for it."""
    the(Run, Story(spec, delivery).begin())


def test_message_that_has_used_up_its_attempts_that_way_is_parked() -> None:
    """It is a crash loop, and no substitute is called for it."""
    waybill = Waybill(id="4711", attempt=3, hop=Hop())
    assert Reason.CRASH_LOOP is parked(Story(GUARDED, REDELIVERED, waybill).begin())


def test_late_message_that_may_have_killed_has_no_substitute() -> None:
    """It is parked: to call the substitute with it could end that consumer as well."""
    late = Story(GUARDED, REDELIVERED, due_in(-5.0))
    assert Reason.CRASH_LOOP is parked(late.begin())
