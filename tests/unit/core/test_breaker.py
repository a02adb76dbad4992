"""The breaker: when it opens, whom it lets in, what closes it."""

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule

from otel_waybill.core.breaker import PROBE_WAIT, TRANSITIONS, Breaker, Permit, State, Trigger
from otel_waybill.core.events import BreakerChanged
from otel_waybill.core.spec import BreakerSpec
from otel_waybill.errors import InvalidPolicy

SPEC = BreakerSpec(name="payments", minimum_calls=4, open_jitter=0.0)
chances = st.floats(0, 1, exclude_max=True)


def let_in(breaker: Breaker, now: float) -> Permit:
    """Acquire a permit that has to be granted."""
    permit = breaker.acquire(now, 0.5).permit
    assert permit is not None
    return permit


def tripped(spec: BreakerSpec = SPEC, now: float = 0.0, u: float = 0.5) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker(spec)
    for _ in range(spec.minimum_calls):
        breaker.fail(let_in(breaker, now), now, u)
    assert State.OPEN is breaker.state
    return breaker


def picture(breaker: Breaker) -> dict[str, object]:
    """Everything that a breaker remembers, to compare before and after."""
    facts = copy.deepcopy(vars(breaker))
    facts["_window"] = vars(facts["_window"])
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


def test_opens_at_the_failure_rate() -> None:
    """Half of the calls failing opens it, and the change says from what to what."""
    breaker = Breaker(SPEC)
    for _ in range(2):
        assert breaker.succeed(let_in(breaker, 0.0), 0.0) is None
    assert breaker.fail(let_in(breaker, 0.0), 0.0, 0.5) is None
    changed = breaker.fail(let_in(breaker, 0.0), 0.0, 0.5)
    assert BreakerChanged(breaker="payments", before="closed", after="open") == changed


def test_stays_closed_below_the_failure_rate() -> None:
    """Fewer failures than the rate are ordinary life."""
    breaker = Breaker(SPEC)
    for _ in range(3):
        breaker.succeed(let_in(breaker, 0.0), 0.0)
    for _ in range(2):
        assert breaker.fail(let_in(breaker, 0.0), 0.0, 0.5) is None
    assert State.CLOSED is breaker.state


def test_stays_closed_below_the_minimum_of_calls() -> None:
    """A few failures at night, when there are few calls, say nothing."""
    breaker = Breaker(SPEC)
    for _ in range(3):
        assert breaker.fail(let_in(breaker, 0.0), 0.0, 0.5) is None
    assert State.CLOSED is breaker.state


def test_old_failures_are_forgotten() -> None:
    """Failures spread over more than the window do not add up."""
    breaker = Breaker(SPEC)
    for second in range(0, 100, 4):
        assert breaker.fail(let_in(breaker, second), second, 0.5) is None


@given(st.integers(1, 200), st.integers(1, 100))
@example(100, 7)
def test_rate_is_met_exactly(calls: int, percent: int) -> None:
    """Seven failures in a hundred are 7 %, whatever binary fractions make of it."""
    spec = BreakerSpec(name="payments", minimum_calls=calls, failure_rate=percent / 100)
    needed = -(-calls * percent // 100)
    breaker = Breaker(spec)
    for _ in range(calls - needed):
        breaker.succeed(let_in(breaker, 0.0), 0.0)
    for _ in range(needed - 1):
        assert breaker.fail(let_in(breaker, 0.0), 0.0, 0.5) is None
    assert breaker.fail(let_in(breaker, 0.0), 0.0, 0.5) is not None


def test_a_success_never_opens() -> None:
    """The call that worked is not the one that closes the door, even when it completes the minimum."""
    breaker = Breaker(SPEC)
    for _ in range(3):
        breaker.fail(let_in(breaker, 0.0), 0.0, 0.5)
    assert breaker.succeed(let_in(breaker, 0.0), 0.0) is None
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
    assert BreakerChanged(breaker="payments", before="open", after="half-open") == admission.changed
    assert State.HALF_OPEN is breaker.state


def test_half_open_lets_in_so_many_probes_and_no_more() -> None:
    """A dependency that is just back gets three calls, not the whole backlog."""
    breaker = tripped()
    probes = [let_in(breaker, 5.0) for _ in range(3)]
    assert all(permit.probe for permit in probes)
    assert (None, PROBE_WAIT) == (breaker.acquire(5.0, 0.0).permit, breaker.acquire(5.0, 0.0).retry_after)
    assert 1.5 * PROBE_WAIT == pytest.approx(breaker.acquire(500.0, 0.5).retry_after)


def test_finished_probes_keep_their_place() -> None:
    """The number of probes is for the whole round, not at a time."""
    breaker = tripped(replace(SPEC, probes=4, probe_success=0.75))
    breaker.succeed(let_in(breaker, 5.0), 5.0)
    breaker.fail(let_in(breaker, 5.0), 5.0, 0.5)
    breaker.succeed(let_in(breaker, 5.0), 5.0)
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
    assert breaker.fail(first, 5.0, 0.5) is None
    assert breaker.succeed(second, 5.0) is None
    changed = breaker.succeed(third, 5.0)
    assert BreakerChanged(breaker="payments", before="half-open", after="closed") == changed
    for _ in range(3):
        assert breaker.fail(let_in(breaker, 5.0), 5.0, 0.5) is None
    assert State.CLOSED is breaker.state


def test_opens_again_as_soon_as_the_probes_cannot_succeed() -> None:
    """The second failure of three decides; the third probe is not waited for."""
    breaker = tripped()
    first, second, third = [let_in(breaker, 5.0) for _ in range(3)]
    assert breaker.fail(first, 5.0, 0.5) is None
    changed = breaker.fail(second, 5.0, 0.5)
    assert BreakerChanged(breaker="payments", before="half-open", after="open") == changed
    assert breaker.succeed(third, 5.0) is None
    assert State.OPEN is breaker.state


@given(st.integers(1, 100), st.integers(1, 100))
@example(100, 7)
def test_probe_success_is_met_exactly(probes: int, percent: int) -> None:
    """The share of probes is the share asked for: as many successes close it, one less does not."""
    breaker = tripped(replace(SPEC, probes=probes, probe_success=percent / 100))
    needed = -(-probes * percent // 100)
    for _ in range(needed - 1):
        assert breaker.succeed(let_in(breaker, 5.0), 5.0) is None
    for _ in range(probes - needed):
        assert breaker.fail(let_in(breaker, 5.0), 5.0, 0.5) is None
    breaker_lost = copy.deepcopy(breaker)
    breaker.succeed(let_in(breaker, 5.0), 5.0)
    assert State.CLOSED is breaker.state
    breaker_lost.fail(let_in(breaker_lost, 5.0), 5.0, 0.5)
    assert State.OPEN is breaker_lost.state


def test_open_time_doubles_up_to_its_ceiling_and_starts_over_after_closing() -> None:
    """A dependency that stays down is asked less and less often; one that came back starts afresh."""
    breaker = tripped(replace(SPEC, probes=1))
    now = 0.0
    seen = []
    for _ in range(6):
        seen.append(open_time(breaker, now))
        now += seen[-1]
        breaker.fail(let_in(breaker, now), now, 0.5)
    assert [5.0, 10.0, 20.0, 40.0, 60.0, 60.0] == seen
    now += 60.0
    breaker.succeed(let_in(breaker, now), now)
    for _ in range(4):
        breaker.fail(let_in(breaker, now), now, 0.5)
    assert 5.0 == open_time(breaker, now)


def test_open_time_survives_a_dependency_that_never_returns() -> None:
    """A week of outage does not overflow anything."""
    breaker = tripped(replace(SPEC, probes=1))
    now = 0.0
    for _ in range(2000):
        now += 60.0
        breaker.fail(let_in(breaker, now), now, 0.5)
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
        breaker.fail(let_in(breaker, 0.0), 0.0, 0.5)
    let_in(breaker, 5.0)
    before = picture(breaker)
    assert breaker.succeed(late, 6.0) is None
    assert breaker.fail(later, 6.0, 0.5) is None
    assert before == picture(breaker)


def test_holds_tells_valid_permits_from_others() -> None:
    """A permit is valid until it is closed, or until the breaker changes its state."""
    breaker = Breaker(SPEC)
    closed, void = let_in(breaker, 0.0), let_in(breaker, 0.0)
    assert breaker.holds(closed)
    breaker.release(closed)
    assert not breaker.holds(closed)
    for _ in range(4):
        breaker.fail(let_in(breaker, 0.0), 0.0, 0.5)
    assert not breaker.holds(void)


def test_every_state_and_trigger_is_in_the_table() -> None:
    """The table is complete: each state has a way out, each trigger a use, and no state is a dead end."""
    assert set(State) == set(TRANSITIONS)
    assert set(Trigger) == {trigger for row in TRANSITIONS.values() for trigger in row}
    assert set(State) == {state for row in TRANSITIONS.values() for state in row.values()}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": ""}, "a name for the breaker"),
        ({"window": 0.0}, r"0 < window < inf \(seconds\)"),
        ({"window": math.inf}, r"0 < window < inf \(seconds\)"),
        ({"minimum_calls": 0}, "minimum_calls >= 1"),
        ({"failure_rate": 0.0}, "0 < failure_rate <= 1"),
        ({"failure_rate": 50}, "0 < failure_rate <= 1, got 50"),
        ({"open_for": 0.0}, r"0 < open_for <= open_ceiling < inf \(seconds\)"),
        ({"open_for": 61.0}, r"got \(61.0, 60.0\)"),
        ({"open_ceiling": math.inf}, "open_ceiling < inf"),
        ({"open_jitter": 1.0}, "0 <= open_jitter < 1"),
        ({"open_jitter": -0.1}, "0 <= open_jitter < 1"),
        ({"probes": 0}, "probes >= 1"),
        ({"probe_success": 0.0}, "0 < probe_success <= 1"),
        ({"probe_success": 1.1}, "0 < probe_success <= 1"),
    ],
)
def test_refuses_values_outside_their_range(wrong: dict[str, Any], message: str) -> None:
    """A setting that cannot work is an error that states the rule, its unit and what was seen."""
    with pytest.raises(InvalidPolicy, match=message):
        BreakerSpec(**{"name": "payments", **wrong})


@dataclass(eq=False)
class Held:
    """A permit that the machine was given, and what it believes about it."""

    permit: Permit
    valid: bool = True


class BreakerMachine(RuleBasedStateMachine):
    """Callers that come, succeed, fail, give up and answer late, in any order."""

    held: Bundle[Held] = Bundle("held")
    spec = BreakerSpec(name="payments", minimum_calls=3, probes=3, probe_success=0.6, open_ceiling=20.0)
    edges = frozenset((before, after) for before, row in TRANSITIONS.items() for after in row.values())

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
            assert (self.state, State(changed.after)) in self.edges
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
            assert admission.retry_after > 0
            assert self.state is not State.CLOSED
            return multiple()
        assert self.state is not State.OPEN
        assert (self.state is State.HALF_OPEN) == admission.permit.probe
        self.given.append(Held(permit=admission.permit))
        return self.given[-1]

    @rule(each=held)
    def succeed(self, each: Held) -> None:
        """Report a success, possibly late or again."""
        before = picture(self.breaker)
        changed = self.breaker.succeed(each.permit, self.now)
        assert changed is None or State.CLOSED == changed.after
        self.report(each, changed, before)

    @rule(each=held, u=chances)
    def fail(self, each: Held, u: float) -> None:
        """Report a failure, possibly late or again."""
        before = picture(self.breaker)
        changed = self.breaker.fail(each.permit, self.now, u)
        assert changed is None or State.OPEN == changed.after
        self.report(each, changed, before)

    @rule(each=held)
    def release(self, each: Held) -> None:
        """Give a permit back, possibly late or again."""
        before = picture(self.breaker)
        self.breaker.release(each.permit)
        if not each.valid:
            assert before == picture(self.breaker)
        each.valid = False
        assert self.state is self.breaker.state

    def report(self, each: Held, changed: BreakerChanged | None, before: dict[str, object]) -> None:
        """A permit closes once, and an old one changes nothing."""
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
    def no_more_probes_than_allowed(self) -> None:
        """Running and finished probes of one round stay within the limit."""
        if self.state is State.HALF_OPEN:
            assert sum(each.valid for each in self.given) + self.finished <= self.spec.probes

    @invariant()
    def permits_are_what_callers_hold(self) -> None:
        """The breaker agrees with its callers on which permits are valid."""
        assert all(each.valid == self.breaker.holds(each.permit) for each in self.given)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=200, stateful_step_count=60)
