"""One delivery under a policy: every decision from its arrival to its settlement.

A driver calls `start`, performs the verdict of the step it gets and answers with `resume`, until a verdict
ends the delivery. The questions on arrival and after a failure are those of `rulings`; in between comes
the turn. Only runs count as attempts; waiting never does.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from otel_waybill.core import copies, verdicts
from otel_waybill.core.bounds import bounds, reached
from otel_waybill.core.delivery import Delivery, Instant, Outcome, Reason, Result
from otel_waybill.core.events import Confirmed, Ended, Event, Unconfirmed
from otel_waybill.core.gate import CONCURRENCY, NO_LIMITS, Gate, Limits, Refusal, Turn
from otel_waybill.core.presence import Presence
from otel_waybill.core.rulings import Again, Budget, Case, Cost, Ignored, Parked
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.topology import rungs
from otel_waybill.core.verdicts import Ack, GiveBack, Leave, Republish, Run, Settled, Step, Wait
from otel_waybill.core.waybill import LARGEST_COUNT, Waybill

# Seconds between tries to publish a copy.
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
# Seconds after which who waits to be called looks by itself: those before it may have been forgotten.
_LOOK: Final = 60.0


class Execution:
    """The state of one delivery under one policy; it is driven by one driver and is not thread safe."""

    def __init__(  # noqa: PLR0913 - what one decision depends on, each by its name
        self,
        spec: PolicySpec,
        delivery: Delivery,
        waybill: Waybill,
        *,
        received: Instant,
        identity: Callable[[], str],
        breaker: Gate | None = None,
        limits: Limits = NO_LIMITS,
        budget: Budget | None = None,
    ) -> None:
        """Take charge of *delivery*.

        Args:
            spec: the policy.
            delivery: the delivery as it came.
            waybill: what was decoded from it.
            received: when it arrived; its deadline becomes monotonic here, once.
            identity: makes a new unique id, for a message that has none.
            breaker: the breaker that pauses this consumer, if any.
            limits: what else it has to wait for.
            budget: whether one more retry is allowed; None allows them all.
        """
        self._spec = spec
        self._delivery = delivery
        self._waybill = waybill
        self._identity = identity
        self._turn = Turn(breaker, limits)
        self._budget = budget
        self._declared = rungs(spec)
        self._arrived = received.monotonic
        self._bounds = bounds(delivery, waybill, received, spec.skew_tolerance)
        self._presence = Presence(delivery.queue)
        self._held_since: float | None = None
        self._instead: Parked | None = None
        self._copy: Republish | None = None
        self._copy_since = 0.0
        self._pause = _FIRST_PAUSE

    @property
    def waybill(self) -> Waybill:
        """The waybill of the run that is under way, or comes next."""
        return self._waybill

    def remaining(self, now: float) -> float | None:
        """Return the seconds left at monotonic *now*, by the deadline in the message, without tolerance."""
        due = self._bounds.due
        return None if due is None else due - self._spec.skew_tolerance - now

    def start(self, now: Instant, u: float) -> Step:
        """Decide about the delivery as it arrives; *u* is chance in [0, 1)."""
        ruling = self._case().on_arrival(self._delivery, now)
        return self._admit(now, u) if ruling is None else self._ruled(ruling, now)

    def resume(self, report: verdicts.Report, now: Instant, u: float) -> Step:  # noqa: PLR0911 - one each
        """Decide what follows from the *report* on the last verdict; *u* is chance in [0, 1)."""
        match report:
            case verdicts.Waited():
                return self._admit(now, u) if self._copy is None else Step(self._copy)
            case verdicts.Published(error=None):
                return self._copied(now)
            case verdicts.Published(error=str(error)):
                return self._unconfirmed(error, now)
            case verdicts.Gone():
                return self._end(Leave, Result.GIVEN_BACK)
            case verdicts.Cancelled(settled=settled, copied=copied) if settled is not Settled.ACK:
                return self._copied(now) if copied else self._end(GiveBack, Result.GIVEN_BACK)
            case verdicts.Raised(error=error, settled=settled) if settled is not Settled.ACK:
                return self._failed(error, now, u)
            case verdicts.Returned(settled=Settled.REFUSED):
                return self._failed(None, now, u)
            case verdicts.Returned(settled=None):
                # Nobody knows when, or whether, the program will settle: no permit is kept until then.
                left_open = self._spec.settle == "handler" and self._instead is None
                return self._end(Leave, Result.OPEN) if left_open else self._succeeded(now, u, Ack)
            case verdicts.Returned() | verdicts.Raised() | verdicts.Cancelled():
                return self._succeeded(now, u, Leave)  # acknowledged by the handler itself
        raise AssertionError(report)  # the match is exhaustive; mypy cannot see through its guards

    def _admit(self, now: Instant, u: float) -> Step:
        if reached(self._bounds.due, now.monotonic):
            late = Parked(Reason.DEADLINE, None)
            match self._spec.on_expired:
                case "park":
                    return self._to_parking(late, now)
                case "fallback":
                    if not self._spec.in_order:
                        self._turn.leave()  # it waits for nothing any more, and nobody for it
                    return self._park(late, now)
                case "ack":
                    return self._end(Ack, Result.DROPPED)
                case _:  # "run"
                    self._waybill = self._waybill.detached()
                    self._bounds = self._bounds._replace(due=None)
        refusal, changed = self._turn.ask(now.monotonic, u)
        return _after(changed, self._run(now) if refusal is None else self._hold(refusal, now))

    def _hold(self, refusal: Refusal, now: Instant) -> Step:
        if refusal.breaker is not None and self._case().stands_by(self._delivery, refusal.seconds):
            return self._stand_by(refusal.seconds)
        events = self._presence.held(refusal)
        seconds = refusal.seconds if refusal.limit is None else min(refusal.seconds, _LOOK)
        # Wake up when the deadline passes, so that what cannot run is parked in time.
        wait = self._bounds.shortened(seconds, now.monotonic)
        if refusal.limit != CONCURRENCY and not self._spec.in_order:
            # Who waits for a place is next in a line that moves; these may last for ever.
            if self._held_since is None:
                self._held_since = now.monotonic
            left = self._held_since + self._spec.hold_max - now.monotonic
            if left <= 0.0:
                return _after(events, self._ruled(self._case().let_go(), now))
            wait = min(wait, left)
        return Step(Wait(seconds=wait, bell=self._turn.bell), events)

    def _stand_by(self, seconds: float) -> Step:
        given_back = self._end(GiveBack, Result.GIVEN_BACK)
        outcome = self._outcome(Result.GIVEN_BACK, None)
        return Step(GiveBack(outcome=outcome, standby=seconds), given_back.events)

    def _run(self, now: Instant) -> Step:
        self._held_since = None
        run = Run(
            attempt=self._waybill.attempt,
            due=self._bounds.due,
            permit=self._turn.permit,
            held=now.monotonic - self._arrived,
            strict=self._spec.refuse_publish,
        )
        return Step(run, self._presence.runs(self.remaining(now.monotonic)))

    def _succeeded(self, now: Instant, u: float, verdict: type[Ack | Leave]) -> Step:
        return _after(self._turn.succeed(now.monotonic, u), self._end(verdict, Result.HANDLED))

    def _failed(self, error: BaseException | None, now: Instant, u: float) -> Step:
        if self._instead is not None:  # the substitute has failed as well
            return _after(self._presence.stopped(), self._to_parking(self._instead, now))
        ruling = self._case().after(error, now, u)
        if isinstance(ruling, Ignored):
            return self._succeeded(now, u, Ack)
        events = (*self._turn.fail(error, now.monotonic, u), *self._presence.stopped())
        return _after(events, self._ruled(ruling, now))

    def _case(self) -> Case:
        return Case(
            spec=self._spec,
            declared=self._declared,
            waybill=self._waybill,
            bounds=self._bounds,
            budget=self._budget,
        )

    def _ruled(self, ruling: Parked | Again, now: Instant) -> Step:
        if isinstance(ruling, Parked):
            return self._park(ruling, now)
        again = self._next(ruling, now)
        if ruling.rung is None:
            return self._wait_here(ruling, again, now)
        result = Result.RETRIED if ruling.cost is Cost.ATTEMPT else Result.DEFERRED
        outcome = self._outcome(result, ruling.error, delay=ruling.seconds)
        copy = copies.to_ladder(self._delivery, again, ruling.rung, outcome, now.wall)
        return self._republish(copy, now)

    def _wait_here(self, ruling: Again, again: Waybill, now: Instant) -> Step:
        """Hold the same delivery: the wait is too short for the broker, or the order is kept."""
        self._waybill = again
        self._arrived = now.monotonic
        if not self._spec.in_order:
            self._turn.leave()
        return Step(Wait(seconds=ruling.seconds))

    def _park(self, parked: Parked, now: Instant) -> Step:
        """Let the substitute handle it, if there is one, and one that it could not kill."""
        if not self._spec.fallback or parked.reason is Reason.CRASH_LOOP:
            return self._to_parking(parked, now)
        self._instead = parked
        return Step(Run(attempt=self._waybill.attempt, fallback=True), self._presence.runs(None))

    def _to_parking(self, parked: Parked, now: Instant) -> Step:
        outcome = self._outcome(Result.PARKED, parked.error, reason=parked.reason)
        waybill = self._identified()
        return self._republish(copies.to_parking(self._delivery, waybill, outcome, self._spec, now.wall), now)

    def _republish(self, copy: Republish, now: Instant) -> Step:
        self._copy = copy
        self._copy_since = now.monotonic
        self._turn.leave()
        return Step(copy, self._presence.released())

    def _copied(self, now: Instant) -> Step:
        copy = self._copy
        if copy is None:
            msg = "a copy was reported published, but none was asked for"
            raise RuntimeError(msg)
        queue = self._delivery.queue
        confirmed = Confirmed(queue=queue, seconds=now.monotonic - self._copy_since)
        return Step(Ack(outcome=copy.outcome), (confirmed, Ended(queue=queue, outcome=copy.outcome)))

    def _unconfirmed(self, error: str, now: Instant) -> Step:
        events = (Unconfirmed(queue=self._delivery.queue, error=error),)
        if now.monotonic - self._copy_since >= self._spec.hold_max:
            return _after(events, self._end(GiveBack, Result.GIVEN_BACK))
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE)
        return Step(Wait(seconds=pause), events)

    def _end(self, verdict: type[Ack | GiveBack | Leave], result: Result) -> Step:
        told = self._turn.leave()
        outcome = self._outcome(result, None)
        ended = Ended(queue=self._delivery.queue, outcome=outcome)
        events = (*told, *self._presence.released(), *self._presence.stopped(), ended)
        return Step(verdict(outcome=outcome), events)

    def _outcome(
        self,
        result: Result,
        error: BaseException | None,
        *,
        reason: Reason | None = None,
        delay: float | None = None,
    ) -> Outcome:
        return Outcome(result=result, attempt=self._waybill.attempt, reason=reason, delay=delay, error=error)

    def _next(self, ruling: Again, now: Instant) -> Waybill:
        """Return the waybill with which the message comes back."""
        failed_at = None if ruling.cost is Cost.NOTHING else now.wall
        hop = copies.remembered(self._delivery, self._waybill, failed_at)
        if ruling.rung is not None and ruling.wait > ruling.rung / 1000:
            hop = replace(hop, not_before=round((now.wall + ruling.wait) * 1000))
        if ruling.cost is Cost.DEFERRAL:
            hop = replace(hop, deferrals=min(hop.deferrals + 1, LARGEST_COUNT))
        waybill = replace(self._identified(), hop=hop)
        return waybill.retried() if ruling.cost is Cost.ATTEMPT else waybill

    def _identified(self) -> Waybill:
        return self._waybill if self._waybill.id else replace(self._waybill, id=self._identity())


def _after(events: tuple[Event, ...], step: Step) -> Step:
    """Return *step* with the *events* that came before it."""
    return Step(step.verdict, (*events, *step.events))
