"""The breaker: when it opens, whom it lets in, what closes it."""

import copy
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule

from otel_waybill.core.breaker import PROBE_WAIT, TRANSITIONS, Breaker, Permit, State, Trigger
from otel_waybill.core.events import BreakerCalled, BreakerChanged, BreakerEvent, CallOutcome
from otel_waybill.core.spec import BreakerSpec
from otel_waybill.errors import CircuitOpen, DeadlineExceeded
from unit.core.objections import objection

SPEC = BreakerSpec(name="payments", minimum_calls=4, open_jitter=0.0)
SLOW = replace(SPEC, slow_after=1.0, slow_rate=0.5)
CLASSES = "an exception class, a tuple of them, or a function of one exception"
OPEN = "0 < open_for <= open_ceiling < inf (seconds)"
BY_HAND = {
    Trigger.FORCED: State.FORCED_OPEN,
    Trigger.OBSERVED: State.METRICS_ONLY,
    Trigger.DISABLED: State.DISABLED,
    Trigger.RESET: State.CLOSED,
}
chances = st.floats(0, 1, exclude_max=True)


def let_in(breaker: Breaker, now: float) -> Permit:
    """Acquire a permit that has to be granted."""
    permit = breaker.acquire(now, 0.5).permit
    assert permit is not None
    return permit


def change(told: tuple[BreakerEvent, ...]) -> BreakerChanged | None:
    """The change among what there is to tell."""
    return next((each for each in told if isinstance(each, BreakerChanged)), None)


def succeed(breaker: Breaker, permit: Permit, now: float, u: float = 0.5) -> BreakerChanged | None:
    """Report a success, and return what it changed."""
    return change(breaker.succeed(permit, now, u))


def fail(breaker: Breaker, permit: Permit, now: float, u: float = 0.5) -> BreakerChanged | None:
    """Report a failure, and return what it changed."""
    return change(breaker.fail(permit, now, u))


def outcomes(told: tuple[BreakerEvent, ...]) -> list[CallOutcome]:
    """How calls ended, among what there is to tell."""
    return [each.outcome for each in told if isinstance(each, BreakerCalled)]


def tripped(spec: BreakerSpec = SPEC, now: float = 0.0, u: float = 0.5) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker(spec)
    for _ in range(spec.minimum_calls):
        fail(breaker, let_in(breaker, now), now, u)
    assert State.OPEN is breaker.state
    return breaker


def brought_to(state: State) -> Breaker:
    """A breaker in *state*."""
    breaker = Breaker(SPEC) if state in {*BY_HAND.values()} else tripped()
    for trigger, after in BY_HAND.items():
        if after is state is not State.CLOSED:
            breaker.override(trigger)
    if state is State.HALF_OPEN:
        let_in(breaker, 5.0)
    assert state is breaker.state
    return breaker


def picture(breaker: Breaker) -> dict[str, Any]:
    """Everything that a breaker remembers, to compare before and after."""
    facts = copy.deepcopy(vars(breaker))
    facts["_window"] = facts["_window"].totals(0.0)
    facts["_running"] = list(breaker._running)
    return facts


def open_time(breaker: Breaker, now: float) -> float:
    """How long an open breaker says it stays open."""
    return breaker.acquire(now, 0.5).retry_after


def test_closed_breaker_lets_everybody_in() -> None:
    """Before anything has failed, nobody notices the breaker."""
    breaker = Breaker(SPEC)
    assert State.CLOSED is breaker.state
    admissions = [breaker.acquire(0.0, 0.5) for _ in range(100)]
    assert all(each.permit and not each.permit.probe and each.changed is None for each in admissions)


def test_permit_knows_whose_it_is() -> None:
    """Whoever holds several permits can tell which breaker gave which, for a probe as well."""
    closed, half_open = Breaker(SPEC), brought_to(State.HALF_OPEN)
    assert closed is let_in(closed, 0.0).breaker
    assert half_open is let_in(half_open, 5.0).breaker


@pytest.mark.parametrize("state", State)
def test_who_need_not_ask_is_admitted(state: State) -> None:
    """The short way in is open where all are let in, and nowhere else."""
    permit = brought_to(state).admit(7.0)
    if state in {State.CLOSED, State.METRICS_ONLY, State.DISABLED}:
        assert permit is not None
        assert (7.0, False, True) == (permit.since, permit.probe, permit.open)
    else:
        assert permit is None


def test_opens_at_the_failure_rate() -> None:
    """Half of the calls failing opens it, and the change says from what to what."""
    breaker = Breaker(SPEC)
    for _ in range(2):
        assert succeed(breaker, let_in(breaker, 0.0), 0.0) is None
    assert fail(breaker, let_in(breaker, 0.0), 0.0, 0.5) is None
    changed = fail(breaker, let_in(breaker, 0.0), 0.0, 0.5)
    assert BreakerChanged(breaker="payments", before="closed", after="open", trigger="tripped") == changed


def test_stays_closed_below_the_failure_rate() -> None:
    """Fewer failures than the rate are ordinary life."""
    breaker = Breaker(SPEC)
    for _ in range(3):
        succeed(breaker, let_in(breaker, 0.0), 0.0)
    for _ in range(2):
        assert fail(breaker, let_in(breaker, 0.0), 0.0, 0.5) is None
    assert State.CLOSED is breaker.state


def test_stays_closed_below_the_minimum_of_calls() -> None:
    """A few failures at night, when there are few calls, say nothing."""
    breaker = Breaker(SPEC)
    for _ in range(3):
        assert fail(breaker, let_in(breaker, 0.0), 0.0, 0.5) is None
    assert State.CLOSED is breaker.state


def test_old_failures_are_forgotten() -> None:
    """Failures spread over more than the window do not add up."""
    breaker = Breaker(SPEC)
    for second in range(0, 100, 4):
        assert fail(breaker, let_in(breaker, second), second, 0.5) is None


@given(st.integers(1, 200), st.integers(1, 100))
@example(100, 7)
def test_rate_is_met_exactly(calls: int, percent: int) -> None:
    """Seven failures in a hundred are 7 %, whatever binary fractions make of it."""
    spec = BreakerSpec(name="payments", minimum_calls=calls, failure_rate=percent / 100)
    needed = -(-calls * percent // 100)
    breaker = Breaker(spec)
    for _ in range(calls - needed):
        succeed(breaker, let_in(breaker, 0.0), 0.0)
    for _ in range(needed - 1):
        assert fail(breaker, let_in(breaker, 0.0), 0.0, 0.5) is None
    assert fail(breaker, let_in(breaker, 0.0), 0.0, 0.5) is not None


def test_a_success_never_opens() -> None:
    """The call that worked is not the one that closes the door, even when it completes the minimum."""
    breaker = Breaker(SPEC)
    for _ in range(3):
        fail(breaker, let_in(breaker, 0.0), 0.0, 0.5)
    assert succeed(breaker, let_in(breaker, 0.0), 0.0) is None
    assert State.CLOSED is breaker.state


def test_open_breaker_refuses_and_says_when_to_come_back() -> None:
    """While open nobody gets in, and each refusal tells the time that is left."""
    breaker = tripped()
    refusal = breaker.acquire(2.0, 0.5)
    assert (None, 3.0, None) == (refusal.permit, refusal.retry_after, refusal.changed)
    assert breaker.acquire(4.999, 0.5).permit is None


def test_first_call_after_the_open_time_is_a_probe() -> None:
    """Coming back when told gets in, and makes the breaker half-open."""
    breaker = tripped()
    admission = breaker.acquire(5.0, 0.5)
    assert admission.permit is not None
    assert admission.permit.probe
    assert 0.0 == admission.retry_after
    assert (
        BreakerChanged(breaker="payments", before="open", after="half-open", trigger="retried")
        == admission.changed
    )
    assert State.HALF_OPEN is breaker.state


def test_half_open_lets_in_so_many_probes_and_no_more() -> None:
    """A dependency that is just back gets three calls, not the whole backlog."""
    breaker = tripped()
    probes = [let_in(breaker, 5.0) for _ in range(3)]
    assert all(permit.probe for permit in probes)
    assert (None, PROBE_WAIT) == (breaker.acquire(5.0, 0.0).permit, breaker.acquire(5.0, 0.0).retry_after)
    assert 1.5 * PROBE_WAIT == pytest.approx(breaker.acquire(64.0, 0.5).retry_after)


def test_finished_probes_keep_their_place() -> None:
    """The number of probes is for the whole round, not at a time."""
    breaker = tripped(replace(SPEC, probes=4, probe_success=0.75))
    succeed(breaker, let_in(breaker, 5.0), 5.0)
    fail(breaker, let_in(breaker, 5.0), 5.0, 0.5)
    succeed(breaker, let_in(breaker, 5.0), 5.0)
    let_in(breaker, 5.0)
    assert breaker.acquire(5.0, 0.5).permit is None


def test_released_probe_gives_its_place_to_another() -> None:
    """A call that was cancelled says nothing about the dependency, and another may try."""
    breaker = tripped()
    first, *_ = [let_in(breaker, 5.0) for _ in range(3)]
    breaker.release(first)
    assert let_in(breaker, 5.0).probe
    assert breaker.acquire(5.0, 0.5).permit is None


def test_enough_probes_close_it_with_a_clean_slate() -> None:
    """Two of three probes close it, and what failed before it opened no longer counts."""
    breaker = tripped()
    first, second, third = [let_in(breaker, 5.0) for _ in range(3)]
    assert fail(breaker, first, 5.0, 0.5) is None
    assert succeed(breaker, second, 5.0) is None
    changed = succeed(breaker, third, 5.0)
    assert (
        BreakerChanged(breaker="payments", before="half-open", after="closed", trigger="recovered") == changed
    )
    for _ in range(3):
        assert fail(breaker, let_in(breaker, 5.0), 5.0, 0.5) is None
    assert State.CLOSED is breaker.state


def test_opens_again_as_soon_as_the_probes_cannot_succeed() -> None:
    """The second failure of three decides; the third probe is not waited for."""
    breaker = tripped()
    first, second, third = [let_in(breaker, 5.0) for _ in range(3)]
    assert fail(breaker, first, 5.0, 0.5) is None
    changed = fail(breaker, second, 5.0, 0.5)
    assert BreakerChanged(breaker="payments", before="half-open", after="open", trigger="relapsed") == changed
    assert succeed(breaker, third, 5.0) is None
    assert State.OPEN is breaker.state


@given(st.integers(1, 100), st.integers(1, 100))
@example(100, 7)
def test_probe_success_is_met_exactly(probes: int, percent: int) -> None:
    """The share of probes is the share asked for: as many successes close it, one less does not."""
    breaker = tripped(replace(SPEC, probes=probes, probe_success=percent / 100))
    needed = -(-probes * percent // 100)
    for _ in range(needed - 1):
        assert succeed(breaker, let_in(breaker, 5.0), 5.0) is None
    for _ in range(probes - needed):
        assert fail(breaker, let_in(breaker, 5.0), 5.0, 0.5) is None
    breaker_lost = copy.deepcopy(breaker)
    succeed(breaker, let_in(breaker, 5.0), 5.0)
    assert State.CLOSED is breaker.state
    fail(breaker_lost, let_in(breaker_lost, 5.0), 5.0, 0.5)
    assert State.OPEN is breaker_lost.state


def test_open_time_doubles_up_to_its_ceiling_and_starts_over_after_closing() -> None:
    """A dependency that stays down is asked less and less often; one that came back starts afresh."""
    breaker = tripped(replace(SPEC, probes=1))
    now = 0.0
    seen = []
    for _ in range(6):
        seen.append(open_time(breaker, now))
        now += seen[-1]
        fail(breaker, let_in(breaker, now), now, 0.5)
    assert [5.0, 10.0, 20.0, 40.0, 60.0, 60.0] == seen
    now += 60.0
    succeed(breaker, let_in(breaker, now), now)
    for _ in range(4):
        fail(breaker, let_in(breaker, now), now, 0.5)
    assert 5.0 == open_time(breaker, now)


def test_open_time_survives_a_dependency_that_never_returns() -> None:
    """A week of outage does not overflow anything."""
    breaker = tripped(replace(SPEC, probes=1))
    now = 0.0
    for _ in range(2000):
        now += 60.0
        fail(breaker, let_in(breaker, now), now, 0.5)
    assert 60.0 == open_time(breaker, now)


@given(chances)
def test_open_time_is_spread_by_chance(u: float) -> None:
    """Replicas that opened together do not probe together."""
    spread = open_time(tripped(replace(SPEC, open_jitter=0.2), u=u), 0.0)
    assert 4.0 <= spread <= 6.0
    assert 4.0 + 2.0 * u == pytest.approx(spread)


def test_results_of_an_earlier_time_change_nothing() -> None:
    """A call that started before the breaker opened neither closes it nor takes a probe's place."""
    breaker = Breaker(SPEC)
    late, later = let_in(breaker, 0.0), let_in(breaker, 0.0)
    for _ in range(4):
        fail(breaker, let_in(breaker, 0.0), 0.0, 0.5)
    let_in(breaker, 5.0)
    before = picture(breaker)
    assert succeed(breaker, late, 6.0) is None
    assert fail(breaker, later, 6.0, 0.5) is None
    assert before == picture(breaker)


def test_holds_tells_valid_permits_from_others() -> None:
    """A permit is valid until it is closed, or until the breaker changes its state."""
    breaker = Breaker(SPEC)
    closed, void = let_in(breaker, 0.0), let_in(breaker, 0.0)
    assert breaker.holds(closed)
    breaker.release(closed)
    assert not breaker.holds(closed)
    for _ in range(4):
        fail(breaker, let_in(breaker, 0.0), 0.0, 0.5)
    assert not breaker.holds(void)


# Windows and slow calls.


def test_window_is_as_long_as_it_says() -> None:
    """What failed half a minute ago counts in a window of a minute, and in the usual one no longer."""
    for window, expected in ((60.0, State.OPEN), (None, State.CLOSED)):
        breaker = Breaker(replace(SPEC, window=window))
        for now in (0.0, 10.0, 20.0, 30.0):
            fail(breaker, let_in(breaker, now), now)
        assert expected is breaker.state


def test_window_of_calls_knows_no_time() -> None:
    """A dependency that is called once an hour is judged by its last calls."""
    breaker = Breaker(BreakerSpec(name="payments", window_calls=4, minimum_calls=4))
    for hour in range(3):
        assert fail(breaker, let_in(breaker, 3600.0 * hour), 3600.0 * hour) is None
    assert fail(breaker, let_in(breaker, 10800.0), 10800.0) is not None


def test_window_of_calls_forgets_the_call_before_the_last() -> None:
    """Of a window of four calls the fifth pushes the first out."""
    breaker = Breaker(BreakerSpec(name="payments", window_calls=4, minimum_calls=4))
    fail(breaker, let_in(breaker, 0.0), 0.0)
    for _ in range(4):
        succeed(breaker, let_in(breaker, 0.0), 0.0)
    assert fail(breaker, let_in(breaker, 0.0), 0.0) is None
    assert fail(breaker, let_in(breaker, 0.0), 0.0) is not None


def test_slow_calls_open_it_though_they_succeed() -> None:
    """A dependency that answers too late is a failing one before anything times out."""
    breaker = Breaker(SLOW)
    for _ in range(2):
        assert succeed(breaker, let_in(breaker, 0.0), 1.0) is None
    assert succeed(breaker, let_in(breaker, 0.0), 1.001) is None
    changed = succeed(breaker, let_in(breaker, 0.0), 1.001)
    assert BreakerChanged(breaker="payments", before="closed", after="open", trigger="tripped") == changed


def test_slow_call_counts_as_slow_also_when_it_fails() -> None:
    """One failure of four is ordinary life, but two slow calls of four are too many."""
    breaker = Breaker(SLOW)
    for _ in range(2):
        succeed(breaker, let_in(breaker, 0.0), 0.5)
    succeed(breaker, let_in(breaker, 0.0), 5.0)
    assert fail(breaker, let_in(breaker, 0.0), 5.0) is not None


def test_few_slow_calls_leave_it_closed() -> None:
    """One slow call of four is ordinary life, whatever comes after it."""
    breaker = Breaker(SLOW)
    for seconds in (0.5, 0.5, 0.5, 5.0, 0.5):
        assert succeed(breaker, let_in(breaker, 0.0), seconds) is None
    assert State.CLOSED is breaker.state


def test_slow_probe_has_failed() -> None:
    """What answers too late when it is tried is not back."""
    breaker = tripped(replace(SLOW, probes=1))
    changed = succeed(breaker, let_in(breaker, 5.0), 6.5)
    assert BreakerChanged(breaker="payments", before="half-open", after="open", trigger="relapsed") == changed


def test_a_call_is_as_long_as_its_own_part() -> None:
    """A permit that is used for a call begun later is not slow for what went before."""
    breaker = Breaker(SLOW)
    for _ in range(4):
        permit = let_in(breaker, 0.0)
        breaker.restart(permit, 100.0)
        assert outcomes(breaker.succeed(permit, 100.5, 0.5)) == [CallOutcome.SUCCESS]
    assert State.CLOSED is breaker.state


def test_every_call_has_one_outcome() -> None:
    """What is told of a call is how it ended, once, and also when the breaker no longer cares."""
    breaker = Breaker(replace(SLOW, minimum_calls=20))
    quick, slow, failed, back = (let_in(breaker, 0.0) for _ in range(4))
    success = BreakerCalled(breaker="payments", outcome=CallOutcome.SUCCESS)
    assert (success,) == breaker.succeed(quick, 1.0, 0.5), "and nothing else"
    assert [CallOutcome.SLOW] == outcomes(breaker.succeed(slow, 1.5, 0.5))
    assert [CallOutcome.FAILURE] == outcomes(breaker.fail(failed, 1.5, 0.5))
    assert [CallOutcome.IGNORED] == outcomes(breaker.release(back))
    for permit in (quick, slow, failed, back):
        assert permit.open is False
        assert (
            ()
            == breaker.succeed(permit, 2.0, 0.5)
            == breaker.fail(permit, 2.0, 0.5)
            == breaker.release(permit)
        )
    late = let_in(breaker, 0.0)
    breaker.override(Trigger.DISABLED)
    assert [CallOutcome.FAILURE] == outcomes(breaker.fail(late, 2.0, 0.5))


# Probes that do not return.


def test_probe_that_never_returns_leaves_its_place() -> None:
    """A call that hangs does not keep the breaker half-open, and those that wait for it out."""
    breaker = tripped(replace(SPEC, probes=1))
    let_in(breaker, 5.0)
    assert breaker.acquire(64.9, 0.5).permit is None
    assert succeed(breaker, let_in(breaker, 65.0), 65.1) is not None
    assert State.CLOSED is breaker.state


def test_late_probe_is_a_witness_in_its_own_round_only() -> None:
    """Handlers that take longer than the limit close the breaker all the same, but not a later one."""
    spec = replace(SPEC, probes=1)
    breaker = tripped(spec)
    late = let_in(breaker, 5.0)
    let_in(breaker, 65.0)
    assert succeed(breaker, late, 70.0) is not None
    assert State.CLOSED is breaker.state

    breaker = tripped(spec)
    late = let_in(breaker, 5.0)
    fail(breaker, let_in(breaker, 65.0), 65.0)
    let_in(breaker, 75.0)
    assert succeed(breaker, late, 76.0) is None
    assert State.HALF_OPEN is breaker.state


# By hand.


@pytest.mark.parametrize("state", State)
def test_hand_moves_any_state(state: State) -> None:
    """Whatever the breaker was doing, people have the last word."""
    for trigger, after in BY_HAND.items():
        breaker = brought_to(state)
        assert BreakerChanged(
            breaker="payments", before=state, after=after, trigger=trigger
        ) == breaker.override(trigger)
        assert after is breaker.state


@given(chances)
def test_forced_open_refuses_until_it_is_released(u: float) -> None:
    """No time passes it; how long to wait before asking again is finite, so that the release is noticed."""
    breaker = Breaker(replace(SPEC, open_jitter=0.2))
    breaker.override(Trigger.FORCED)
    for now in (0.0, 1e9):
        refusal = breaker.acquire(now, u)
        assert refusal.permit is None
        assert 4.0 <= refusal.retry_after <= 6.0 <= breaker._spec.longest_open
    breaker.override(Trigger.RESET)
    assert not let_in(breaker, 1e9).probe


def test_disabled_lets_all_in_and_counts_nothing() -> None:
    """While it is off it forms no opinion, and it begins without one when it is on again."""
    breaker = Breaker(SPEC)
    breaker.override(Trigger.DISABLED)
    for _ in range(100):
        assert fail(breaker, let_in(breaker, 0.0), 0.0) is None
    assert State.DISABLED is breaker.state
    breaker.override(Trigger.RESET)
    assert fail(breaker, let_in(breaker, 0.0), 0.0) is None


def test_metrics_only_tells_when_it_would_have_opened() -> None:
    """Settings can be tried in production: each time they would have opened it is one change to itself."""
    breaker = Breaker(SPEC)
    breaker.override(Trigger.OBSERVED)
    told = [fail(breaker, let_in(breaker, 0.0), 0.0) for _ in range(8)]
    would_open = BreakerChanged(
        breaker="payments", before="metrics-only", after="metrics-only", trigger="tripped"
    )
    assert [None, None, None, would_open] * 2 == told


def test_reset_closes_with_nothing_counted() -> None:
    """What was counted, and how long it had been open, is forgotten."""
    breaker = Breaker(SPEC)
    for _ in range(3):
        fail(breaker, let_in(breaker, 0.0), 0.0)
    breaker.override(Trigger.RESET)
    assert fail(breaker, let_in(breaker, 0.0), 0.0) is None

    breaker = tripped(replace(SPEC, probes=1))
    fail(breaker, let_in(breaker, 5.0), 5.0)
    assert 10.0 == open_time(breaker, 5.0)
    breaker.override(Trigger.RESET)
    for _ in range(4):
        fail(breaker, let_in(breaker, 5.0), 5.0)
    assert 5.0 == open_time(breaker, 5.0)


# Which exceptions count.


@pytest.mark.parametrize(
    ("expected", "settings", "error"),
    [
        (CallOutcome.FAILURE, {}, ValueError()),
        (CallOutcome.FAILURE, {}, TimeoutError()),
        (CallOutcome.FAILURE, {}, DeadlineExceeded(0.1)),
        (CallOutcome.IGNORED, {}, KeyboardInterrupt()),
        (CallOutcome.IGNORED, {}, CircuitOpen("stock", 1.0)),
        (CallOutcome.FAILURE, {"failures": (OSError,)}, ConnectionError()),
        (CallOutcome.SUCCESS, {"failures": (OSError,)}, ValueError()),
        (CallOutcome.FAILURE, {"failures": OSError}, ConnectionError()),
        (CallOutcome.SUCCESS, {"failures": ()}, ValueError()),
        (CallOutcome.IGNORED, {"ignored": (LookupError,)}, KeyError()),
        (CallOutcome.FAILURE, {"ignored": (LookupError,)}, ValueError()),
        (CallOutcome.IGNORED, {"failures": (OSError,), "ignored": (OSError,)}, OSError()),
        (CallOutcome.FAILURE, {"failures": lambda error: "5" in str(error)}, ValueError("503")),
        (CallOutcome.SUCCESS, {"failures": lambda error: "5" in str(error)}, ValueError("404")),
        (CallOutcome.IGNORED, {"ignored": lambda error: "4" in str(error)}, ValueError("404")),
        (CallOutcome.IGNORED, {"failures": lambda _: True}, CircuitOpen("payments", 1.0)),
        (CallOutcome.IGNORED, {"failures": lambda _: True}, SystemExit()),
    ],
)
def test_settings_judge_exceptions(
    expected: CallOutcome, settings: dict[str, Any], error: BaseException
) -> None:
    """A failure, an answer, or nothing that says anything about the dependency."""
    assert expected is BreakerSpec(name="payments", **settings).judge(error)


def test_longest_open_time_is_the_ceiling_with_all_its_jitter() -> None:
    """Whoever plans how long a message may have to wait knows the most it can be."""
    assert 90.0 == BreakerSpec(name="payments", open_ceiling=60.0, open_jitter=0.5).longest_open


# The table and the settings.


def test_every_state_and_trigger_is_in_the_table() -> None:
    """The table is complete: each state has a way out, each trigger a use, and no state is a dead end."""
    assert set(State) == set(TRANSITIONS)
    assert set(Trigger) == {trigger for row in TRANSITIONS.values() for trigger in row}
    assert set(State) == {state for row in TRANSITIONS.values() for state in row.values()}


@pytest.mark.parametrize(
    ("expected", "wrong"),
    [
        ("a name for the breaker, got ''", {"name": ""}),
        ("0 < window < inf (seconds), got 0.0", {"window": 0.0}),
        ("0 < window < inf (seconds), got inf", {"window": math.inf}),
        ("one of window and window_calls, got (10.0, 100)", {"window": 10.0, "window_calls": 100}),
        (
            "minimum_calls <= window_calls, because it would never open, got (20, 19)",
            {"window_calls": 19},
        ),
        ("minimum_calls >= 1, got 0", {"minimum_calls": 0}),
        ("0 < slow_after < inf (seconds), got 0.0", {"slow_after": 0.0}),
        ("0 < slow_after < inf (seconds), got nan", {"slow_after": math.nan}),
        ("0 < probe_timeout < inf (seconds), got inf", {"probe_timeout": math.inf}),
        ("0 < slow_rate <= 1, got 0.0", {"slow_rate": 0.0}),
        ("0 < failure_rate <= 1, got 0.0", {"failure_rate": 0.0}),
        ("0 < failure_rate <= 1, got 50", {"failure_rate": 50}),
        ("0 < probe_success <= 1, got 0.0", {"probe_success": 0.0}),
        ("0 < probe_success <= 1, got 1.1", {"probe_success": 1.1}),
        (f"failures: {CLASSES}, got 'OSError'", {"failures": "OSError"}),
        (f"ignored: {CLASSES}, got [<class 'OSError'>]", {"ignored": [OSError]}),
        (f"{OPEN}, got (0.0, 60.0)", {"open_for": 0.0}),
        (f"{OPEN}, got (61.0, 60.0)", {"open_for": 61.0}),
        (f"{OPEN}, got (5.0, inf)", {"open_ceiling": math.inf}),
        ("0 <= open_jitter < 1, got 1.0", {"open_jitter": 1.0}),
        ("0 <= open_jitter < 1, got -0.1", {"open_jitter": -0.1}),
        ("probes >= 1, got 0", {"probes": 0}),
    ],
)
def test_refuses_values_outside_their_range(expected: str, wrong: dict[str, Any]) -> None:
    """A setting that cannot work is an error that states the rule, its unit and what was seen."""
    assert f"need {expected}" == objection(lambda: BreakerSpec(**{"name": "payments", **wrong}))


@pytest.mark.parametrize(
    "edge",
    [
        {"window": 0.5},
        {"window_calls": 20},
        {"minimum_calls": 1},
        {"slow_after": 0.5, "slow_rate": 1.0},
        {"failure_rate": 1.0},
        {"probe_success": 1.0},
        {"probe_timeout": 0.5},
        {"open_for": 0.5},
        {"open_for": 60.0},
        {"open_jitter": 0.0},
        {"probes": 1},
    ],
)
def test_allows_values_at_the_edge_of_their_range(edge: dict[str, Any]) -> None:
    """The smallest and largest values that make sense."""
    assert edge.items() <= asdict(BreakerSpec(name="payments", **edge)).items()


@dataclass(eq=False)
class Held:
    """A permit that the machine was given, and what it believes about it."""

    permit: Permit
    valid: bool = True
    told: bool = False


class BreakerMachine(RuleBasedStateMachine):
    """Callers that come, succeed, fail, give up and answer late, in any order."""

    held: Bundle[Held] = Bundle("held")
    spec = BreakerSpec(
        name="payments",
        minimum_calls=3,
        slow_after=10.0,
        probes=3,
        probe_success=0.6,
        probe_timeout=40.0,
        open_ceiling=20.0,
    )

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(self.spec)
        self.now = 0.0
        self.state = State.CLOSED
        self.given: list[Held] = []
        self.finished = 0  # probes of this round

    def note(self, changed: BreakerChanged | None) -> None:
        """Follow a change of state, or see that there was none."""
        if changed is not None:
            assert self.state == changed.before
            assert TRANSITIONS[self.state][Trigger(changed.trigger)] == changed.after
            self.state = State(changed.after)
            self.finished = 0
            for each in self.given:
                each.valid = False
        assert self.state is self.breaker.state

    @rule(target=held, u=chances)
    def acquire(self, u: float) -> Any:  # noqa: ANN401 - hypothesis does not export the type of multiple()
        """Ask to be let in."""
        admission = self.breaker.acquire(self.now, u)
        self.note(admission.changed)
        if admission.permit is None:
            assert 0 < admission.retry_after <= self.spec.longest_open
            assert self.state in {State.OPEN, State.HALF_OPEN, State.FORCED_OPEN}
            return multiple()
        assert self.state not in {State.OPEN, State.FORCED_OPEN}
        assert (self.state is State.HALF_OPEN) == admission.permit.probe
        if admission.permit.probe:
            # Running probes that have their place, and finished ones, stay within the limit.
            assert len(self.placed()) + self.finished < self.spec.probes
        self.given.append(Held(permit=admission.permit))
        return self.given[-1]

    def placed(self) -> list[Held]:
        """The probes that have a place: those that run, and do not take too long."""
        return [
            each
            for each in self.given
            if each.valid and each.permit.probe and self.now - each.permit.since < self.spec.probe_timeout
        ]

    @rule(each=held, u=chances)
    def succeed(self, each: Held, u: float) -> None:
        """Report a success, possibly slow, late or again."""
        before, slow = picture(self.breaker), self.now - each.permit.since > 10.0
        told = self.breaker.succeed(each.permit, self.now, u)
        changed = change(told)
        assert changed is None or slow or State.CLOSED == changed.after
        assert outcomes(told) in ([], [CallOutcome.SLOW if slow else CallOutcome.SUCCESS])
        self.report(each, told, before)

    @rule(each=held, u=chances)
    def fail(self, each: Held, u: float) -> None:
        """Report a failure, possibly late or again."""
        before = picture(self.breaker)
        told = self.breaker.fail(each.permit, self.now, u)
        changed = change(told)
        assert changed is None or changed.after in {State.OPEN, State.METRICS_ONLY}
        assert outcomes(told) in ([], [CallOutcome.FAILURE])
        self.report(each, told, before)

    @rule(trigger=st.sampled_from(sorted(BY_HAND)))
    def override(self, trigger: Trigger) -> None:
        """Move it by hand."""
        changed = self.breaker.override(trigger)
        assert BY_HAND[trigger] is changed.after
        self.note(changed)

    @rule(each=held)
    def release(self, each: Held) -> None:
        """Give a permit back, possibly late or again."""
        before = picture(self.breaker)
        told = self.breaker.release(each.permit)
        assert (
            () if each.told else (BreakerCalled(breaker="payments", outcome=CallOutcome.IGNORED),)
        ) == told
        each.told = True
        if not each.valid:
            assert before == picture(self.breaker)
        each.valid = False
        assert self.state is self.breaker.state

    def report(self, each: Held, told: tuple[BreakerEvent, ...], before: dict[str, object]) -> None:
        """A permit closes once and tells once, and an old one changes nothing."""
        changed = change(told)
        assert (not each.told) == (len(outcomes(told)) == 1)
        each.told = True
        if not each.valid:
            assert changed is None
            assert before == picture(self.breaker)
        elif each.permit.probe:
            self.finished += 1
        each.valid = False
        self.note(changed)

    @rule(seconds=st.floats(0, 30))
    def advance(self, seconds: float) -> None:
        """Let time pass; it moves nothing."""
        self.now += seconds
        assert self.state is self.breaker.state

    @precondition(lambda self: self.state is State.OPEN)
    @rule(target=held, u=chances)
    def come_back_when_told(self, u: float) -> Any:  # noqa: ANN401 - as above
        """Wait as long as a refusal says and ask again: a probe gets in."""
        self.now += copy.deepcopy(self.breaker).acquire(self.now, u).retry_after
        answer = self.acquire(u)
        assert isinstance(answer, Held)
        assert self.state is State.HALF_OPEN
        return answer

    @invariant()
    def permits_are_what_callers_hold(self) -> None:
        """The breaker agrees with its callers on which permits are valid."""
        assert all(each.valid == self.breaker.holds(each.permit) for each in self.given)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=2 * settings().max_examples, stateful_step_count=60)
