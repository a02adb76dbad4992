"""One delivery under a random policy: whatever happens to it, in whatever order."""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from otel_waybill import names
from otel_waybill.core.backoff import Backoff
from otel_waybill.core.delivery import Result
from otel_waybill.core.events import Ended, Event, Held, Released, RunEnded, RunStarted
from otel_waybill.core.gate import Limits
from otel_waybill.core.limits import RateLimit
from otel_waybill.core.retry import Retry
from otel_waybill.core.spec import PolicySpec
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
    Verdict,
    Wait,
    Waited,
)
from otel_waybill.core.waybill import Hop, Waybill
from otel_waybill.errors import CircuitOpen, RetryAfter
from unit.core.story import DELIVERY, WALL, Line, Story, Turnstile

chances = st.floats(0, 1, exclude_max=True)
DEFERRING = CircuitOpen("inventory", 3.0, defer=True)
errors = st.sampled_from(
    [ValueError(), KeyError(), TypeError(), CircuitOpen("inventory", 3.0), DEFERRING, RetryAfter(500.0)]
)
"""One that is retried, one that is ignored, one that is parked, and those with a wait of their own."""


class Life(RuleBasedStateMachine):
    """One delivery under a random policy, to which anything happens that can happen."""

    def __init__(self) -> None:
        super().__init__()
        self.verdict: Verdict | None = None
        self.copy: Republish | None = None
        self.ended = 0  # terminal verdicts, but for OPEN
        self.runs = 0  # runs that ended in a failure
        self.proof = False  # the handler is done, or a copy is safe
        self.copy_since = 0.0
        self.told: list[Event] = []
        self.substituted = 0

    @initialize(data=st.data(), attempts=st.none() | st.integers(1, 4), u=chances)
    def arrive(self, data: st.DataObject, attempts: int | None, u: float) -> None:
        """A delivery comes in."""
        draw = data.draw
        in_order, classic_guard = draw(st.sampled_from([(False, False), (True, False), (False, True)]))
        retry = Retry(
            attempts=attempts or 1,
            backoff=Backoff(first=draw(st.sampled_from([0.05, 0.5, 8.0])), ceiling=30.0),
            ignore=KeyError,
            park=TypeError,
            elapsed=draw(st.sampled_from([None, 20.0])),
            max_deferrals=draw(st.sampled_from([0, 1, 100])),
            in_order=in_order,
            classic_guard=classic_guard,
        )
        self.fallback = draw(st.booleans())
        self.spec = PolicySpec(
            retry=None if attempts is None else retry,
            rate=RateLimit(1),
            settle=draw(st.sampled_from([None, "return", "handler"])),
            on_expired=draw(st.sampled_from(["park", "run", "ack"] + ["fallback"] * self.fallback)),
            fallback=self.fallback,
            hold_max=40.0,
        )
        self.gate, self.places, self.pace = Turnstile(), Line(), Line()
        self.first = draw(st.integers(1, 3))
        count = draw(st.none() | st.integers(0, 30))
        affords = draw(st.booleans())
        self.exact = affords
        left = draw(st.none() | st.floats(-3.0, 60.0))
        not_before = draw(st.none() | st.integers(-10_000, 10_000))
        hop = Hop(not_before=None if not_before is None else round(WALL * 1000) + not_before)
        self.story = Story(
            self.spec,
            DELIVERY._replace(
                headers={} if count is None else {names.HEADER_DELIVERY_COUNT: count},
                redelivered=draw(st.booleans()),
            ),
            Waybill(
                attempt=self.first,
                retry_limit=draw(st.none() | st.integers(0, 3)),
                deadline=None if left is None else WALL + left,
                id="4711",
                hop=None if not_before is None and self.first == 1 else hop,
            ),
            self.gate if draw(st.booleans()) else None,
            limits=Limits(self.places, self.pace),
            budget=lambda _: affords,
        )
        self.take(self.story.begin(u=u))

    def take(self, step: Step) -> None:
        """Look at *step* as a driver does."""
        before, self.verdict = self.verdict, step.verdict
        self.told += step.events
        match step.verdict:
            case Run(attempt=attempt, due=due, fallback=fallback):
                assert self.copy is None
                assert self.first <= attempt <= self.first + self.runs
                assert fallback or not self.exact or self.first + self.runs == attempt
                assert not fallback or self.fallback
                assert due is None or self.story.now < due
                self.substituted += fallback
            case Wait(seconds=seconds, bell=bell):
                assert 0 < seconds <= max(self.spec.hold_max, 100.0) or bell is not None
            case Republish() as copy:
                assert self.copy is None or copy is self.copy
                if self.copy is None:
                    self.copy, self.copy_since = copy, self.story.now
            case Ack(outcome=outcome):
                dropped = outcome.result is Result.DROPPED
                assert self.proof or (dropped and self.spec.on_expired == "ack")
                assert outcome.result not in {Result.OPEN, Result.GIVEN_BACK}
                self.ended += 1
            case GiveBack():
                # It may be given back while it is in doubt, never after it was handled.
                assert not self.proof
                self.ended += 1
            case Leave(outcome=outcome):
                if outcome.result is not Result.OPEN:
                    self.ended += 1
                else:
                    assert isinstance(before, Run)

    def tell(self, report: Report, u: float) -> None:
        """Report something."""
        self.take(self.story.tell(report, u=u))

    def under_way(self, kind: type[Verdict]) -> bool:
        """Whether the last verdict was of that *kind*."""
        return isinstance(self.verdict, kind)

    def instead(self) -> bool:
        """Whether the substitute runs."""
        return isinstance(self.verdict, Run) and self.verdict.fallback

    def open(self) -> bool:
        """Whether the program still has to settle."""
        return isinstance(self.verdict, Leave) and self.verdict.outcome.result is Result.OPEN

    @rule(seconds=st.floats(0.0, 20.0))
    def time_passes(self, seconds: float) -> None:
        """Nothing else happens."""
        self.story.now += seconds

    @precondition(lambda self: self.under_way(Run) or self.open())
    @rule(u=chances)
    def program_acks(self, u: float) -> None:
        """The program acknowledges, in its handler or later."""
        self.tell(Returned(Settled.ACK), u)
        assert self.under_way(Leave)

    @precondition(lambda self: self.under_way(Run) or self.open())
    @rule(u=chances)
    def program_refuses(self, u: float) -> None:
        """The program nacks, in its handler or later."""
        self.runs += 1
        self.tell(Returned(Settled.REFUSED), u)

    @precondition(lambda self: self.under_way(Run))
    @rule(u=chances)
    def handler_returns(self, u: float) -> None:
        """The handler returns without a word."""
        self.proof = self.spec.settle != "handler" or self.instead()
        self.tell(Returned(), u)
        assert self.under_way(Ack if self.proof else Leave)

    @precondition(lambda self: self.under_way(Run))
    @rule(u=chances, error=errors, acked=st.booleans())
    def handler_raises(self, u: float, error: Exception, *, acked: bool) -> None:
        """The handler or its substitute raises, before or after it has acknowledged."""
        self.runs += not acked
        self.exact &= error is not DEFERRING
        ignored = isinstance(error, KeyError) and self.spec.retry is not None and not self.instead()
        self.proof = ignored and not acked
        self.tell(Raised(error, Settled.ACK if acked else None), u)
        assert not acked or self.under_way(Leave)
        assert not self.proof or self.under_way(Ack)

    @precondition(lambda self: self.under_way(Run) or self.under_way(Wait) or self.under_way(Republish))
    @rule(u=chances)
    def shutdown(self, u: float) -> None:
        """The program is told to stop."""
        self.tell(Cancelled(), u)
        assert self.under_way(GiveBack)

    @precondition(lambda self: self.under_way(Republish))
    @rule(u=chances)
    def shutdown_after_the_confirm(self, u: float) -> None:
        """The program is told to stop at the moment at which the copy is safe."""
        self.proof = True
        self.tell(Cancelled(copied=True), u)
        assert self.under_way(Ack)

    @precondition(lambda self: self.under_way(Wait))
    @rule(u=chances, data=st.data())
    def wait_is_over(self, u: float, data: st.DataObject) -> None:
        """The hold ends by time or by a call, and whoever is asked may refuse again."""
        assert isinstance(self.verdict, Wait)
        self.gate.refusals = data.draw(st.lists(st.floats(0.1, 5.0), max_size=1))
        self.places.refusals = data.draw(st.lists(st.just(math.inf), max_size=1))
        self.pace.refusals = data.draw(st.lists(st.sampled_from([2.5, math.inf]), max_size=1))
        self.story.now += min(self.verdict.seconds, 50.0)
        self.tell(Waited(), u)

    @precondition(lambda self: self.under_way(Wait) or self.under_way(Republish))
    @rule(u=chances)
    def channel_goes(self, u: float) -> None:
        """The connection breaks."""
        self.tell(Gone(), u)
        assert self.under_way(Leave)

    @precondition(lambda self: self.under_way(Republish))
    @rule(u=chances)
    def copy_is_safe(self, u: float) -> None:
        """The broker confirms the copy."""
        assert self.copy is not None
        self.proof = True
        self.tell(Published(), u)
        assert Ack(outcome=self.copy.outcome) == self.verdict

    @precondition(lambda self: self.under_way(Republish))
    @rule(u=chances)
    def copy_is_in_doubt(self, u: float) -> None:
        """The broker does not confirm the copy."""
        self.tell(Published("no confirm"), u)
        late = self.story.now - self.copy_since >= self.spec.hold_max
        assert self.under_way(GiveBack if late else Wait)

    @invariant()
    def ends_once(self) -> None:
        """No delivery ends twice, and one that has ended stays so."""
        over = isinstance(self.verdict, Ack | GiveBack | Leave) and not self.open()
        assert over == self.ended

    def count(self, kind: type[Event]) -> int:
        """How often something of that *kind* was told."""
        return sum(isinstance(event, kind) for event in self.told)

    @invariant()
    def what_goes_up_comes_down(self) -> None:
        """Gauges made of events are true: one handler runs or none, and no hold outlives its wait."""
        assert self.count(RunStarted) - self.count(RunEnded) == self.under_way(Run)
        holding = self.count(Held) - self.count(Released)
        assert holding in {0, 1}
        assert not holding or self.under_way(Wait)

    @invariant()
    def ends_are_told_once(self) -> None:
        """Whoever counts outcomes counts this delivery once, but for the time in which it was open."""
        ends = [event for event in self.told if isinstance(event, Ended)]
        assert self.ended == sum(event.outcome.result is not Result.OPEN for event in ends)

    @invariant()
    def permits_are_closed_once(self) -> None:
        """A run has its permit open, and nothing else ever has one."""
        closings = [len(each) for each in self.gate.closed.values()]
        running = isinstance(self.verdict, Run) and self.verdict.permit is not None
        assert [1] * (len(closings) - running) + [0] * running == closings

    @invariant()
    def nothing_is_kept(self) -> None:
        """A delivery that has ended, is left open or is being copied is in nobody's way."""
        if self.under_way(Republish) or isinstance(self.verdict, Ack | GiveBack | Leave):
            assert set() == self.places.known | self.pace.known

    @invariant()
    def is_called_once(self) -> None:
        """The substitute has one try."""
        assert self.substituted <= 1

    def teardown(self) -> None:
        """Whatever has happened, it comes to an end when everybody lets it."""
        for line in (self.places, self.pace):
            line.refusals = []
        self.gate.refusals = []
        for _ in range(3):
            if self.under_way(Run):
                self.program_acks(0.0)
            elif self.under_way(Wait):
                self.story.now += 50.0
                self.tell(Waited(), 0.0)
            elif self.under_way(Republish):
                self.copy_is_safe(0.0)
        assert self.ended or self.open()
        self.nothing_is_kept()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=3 * settings().max_examples, stateful_step_count=20)
