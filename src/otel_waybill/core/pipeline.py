"""One delivery under a policy: every decision from its arrival to its settlement.

A driver calls `start`, performs the verdict of the step it gets and answers with `resume`, until a verdict
ends the delivery. The order of the questions is fixed: crash loop, deadline, breaker before a run; success,
deadline, attempts, delay after it. Only runs count as attempts; waiting never does.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from otel_waybill import names
from otel_waybill.core import copies, verdicts
from otel_waybill.core.breaker import Admission, Permit
from otel_waybill.core.delivery import Delivery, Instant, Outcome, Reason, Result
from otel_waybill.core.events import BreakerChanged, Ended, Event, Held, Unconfirmed
from otel_waybill.core.headers import number
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.topology import delay_name, reachable_rung
from otel_waybill.core.verdicts import Ack, GiveBack, Leave, Republish, Run, Settled, Step, Wait
from otel_waybill.core.waybill import Hop, Waybill
from otel_waybill.errors import CircuitOpen

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


class Gate(Protocol):
    """What the pipeline asks of a circuit breaker."""

    @property
    def name(self) -> str:
        """Its name."""

    def acquire(self, now: float, u: float) -> Admission:
        """Ask to run one attempt."""

    def succeed(self, permit: Permit, now: float) -> BreakerChanged | None:
        """Report that the attempt succeeded."""

    def fail(self, permit: Permit, now: float, u: float) -> BreakerChanged | None:
        """Report that the attempt failed."""

    def release(self, permit: Permit) -> None:
        """Give the permit back, uncounted."""


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
    ) -> None:
        """Take charge of *delivery*.

        Args:
            spec: the policy.
            delivery: the delivery as it came.
            waybill: what was decoded from it.
            received: when it arrived; its deadline becomes monotonic here, once.
            identity: makes a new unique id, for a message that has none.
            breaker: the breaker that pauses this consumer, if any.
        """
        self._spec = spec
        self._delivery = delivery
        self._waybill = waybill
        self._identity = identity
        self._breaker = breaker
        self._permit: Permit | None = None
        self._arrived = received.monotonic
        self._copy: Republish | None = None
        self._copy_since = 0.0
        self._pause = _FIRST_PAUSE
        self.due = (
            None
            if waybill.deadline is None
            else received.monotonic + waybill.deadline - received.wall + spec.skew_tolerance
        )
        self._expires = _expiry(delivery, waybill.hop, received)

    @property
    def waybill(self) -> Waybill:
        """The waybill of the run that is under way, or comes next."""
        return self._waybill

    def remaining(self, now: float) -> float | None:
        """Return the seconds left at monotonic *now*, by the deadline in the message, without tolerance."""
        return None if self.due is None else self.due - self._spec.skew_tolerance - now

    def start(self, now: Instant, u: float) -> Step:
        """Decide about the delivery as it arrives; *u* is chance in [0, 1)."""
        retry = self._spec.retry
        count = number(self._delivery.headers.get(names.HEADER_DELIVERY_COUNT))
        if retry is not None and count is not None and count > retry.redeliveries:
            return self._park(Reason.CRASH_LOOP, None, now)
        return self._admit(now, u)

    def resume(self, report: verdicts.Report, now: Instant, u: float) -> Step:  # noqa: PLR0911 - one for each report
        """Decide what follows from the *report* on the last verdict; *u* is chance in [0, 1)."""
        match report:
            case verdicts.Waited():
                return self._admit(now, u) if self._copy is None else Step(self._copy)
            case verdicts.Published(error=None):
                return self._copied()
            case verdicts.Published(error=str(error)):
                return self._unconfirmed(error, now)
            case (
                verdicts.Returned(settled=Settled.ACK)
                | verdicts.Raised(settled=Settled.ACK)
                | verdicts.Cancelled(settled=Settled.ACK)
            ):
                return self._succeeded(now, Leave)
            case verdicts.Returned(settled=None):
                return self._left_open() if self._spec.settle == "handler" else self._succeeded(now, Ack)
            case verdicts.Returned(settled=Settled.REFUSED):
                return self._failed(None, now, u)
            case verdicts.Raised(error=error):
                return self._failed(error, now, u)
            case verdicts.Cancelled():
                self._release()
                return self._end(GiveBack, Result.GIVEN_BACK, ())
            case verdicts.Gone():
                self._release()
                return self._end(Leave, Result.GIVEN_BACK, ())
        raise AssertionError(report)  # the match is exhaustive; mypy cannot see through its guards

    def _admit(self, now: Instant, u: float) -> Step:
        if _reached(self.due, now.monotonic):
            return self._park(Reason.DEADLINE, None, now)
        if self._breaker is None:
            return Step(self._run(now))
        admission = self._breaker.acquire(now.monotonic, u)
        events: tuple[Event, ...] = _known(admission.changed)
        if admission.permit is None:
            wait = admission.retry_after
            if self.due is not None:
                # Wake up when the deadline passes, so that what cannot run is parked in time.
                wait = min(wait, self.due - now.monotonic)
            held = Held(queue=self._delivery.queue, breaker=self._breaker.name)
            return Step(Wait(seconds=wait), (*events, held))
        self._permit = admission.permit
        return Step(self._run(now), events)

    def _run(self, now: Instant) -> Run:
        held = now.monotonic - self._arrived
        return Run(attempt=self._waybill.attempt, due=self.due, permit=self._permit, held=held)

    def _left_open(self) -> Step:
        # Nobody knows when, or whether, it will be settled: a permit kept until then might never come back.
        self._release()
        return self._end(Leave, Result.OPEN, ())

    def _succeeded(self, now: Instant, verdict: type[Ack | Leave]) -> Step:
        events: tuple[Event, ...] = ()
        if self._breaker is not None and self._permit is not None:
            events = _known(self._breaker.succeed(self._permit, now.monotonic))
            self._permit = None
        return self._end(verdict, Result.HANDLED, events)

    def _failed(self, error: BaseException | None, now: Instant, u: float) -> Step:
        events: tuple[Event, ...] = ()
        if isinstance(error, CircuitOpen):
            # Some breaker refused a call: the dependency that this one guards had no say in it.
            self._release()
        elif self._breaker is not None and self._permit is not None:
            events = _known(self._breaker.fail(self._permit, now.monotonic, u))
            self._permit = None
        step = self._after_failure(error, now, u)
        return Step(step.verdict, (*events, *step.events))

    def _after_failure(self, error: BaseException | None, now: Instant, u: float) -> Step:
        retry, waybill = self._spec.retry, self._waybill
        if _reached(self.due, now.monotonic):
            return self._park(Reason.DEADLINE, error, now)
        if retry is None or waybill.attempt >= retry.attempts:
            return self._park(Reason.MAX_ATTEMPTS, error, now)
        if waybill.retry_limit is not None and waybill.retries >= waybill.retry_limit:
            return self._park(Reason.RETRY_LIMIT, error, now)
        delay = retry.backoff.delay(waybill.attempt, u)
        if isinstance(error, CircuitOpen):
            delay = max(delay, error.retry_after)
        milliseconds = reachable_rung(delay, retry)
        # Without a rung it is held here: longer than a blink only when an error asks for it.
        wait = min(delay, self._spec.hold_max) if milliseconds is None else milliseconds / 1000
        again_at = now.monotonic + wait
        if _reached(self.due, again_at) or _reached(self._expires, again_at):
            return self._park(Reason.DEADLINE_BEFORE_RETRY, error, now)
        if milliseconds is None:
            return self._run_again(wait, now)
        outcome = self._outcome(Result.RETRIED, error, delay=wait)
        again = self._next()
        headers = copies.retry_headers(self._delivery, again, now.wall)
        return self._republish(delay_name(milliseconds), headers, again, outcome, now)

    def _run_again(self, wait: float, now: Instant) -> Step:
        """Hold the same delivery: the wait is too short for a trip through the broker."""
        hop = copies.remembered(self._delivery, self._waybill, now.wall)
        self._waybill = replace(self._next(), hop=hop)
        self._arrived = now.monotonic
        return Step(Wait(seconds=wait))

    def _park(self, reason: Reason, error: BaseException | None, now: Instant) -> Step:
        outcome = self._outcome(Result.PARKED, error, reason=reason)
        parked = self._identified()
        headers = copies.parking_headers(self._delivery, parked, outcome, now.wall)
        return self._republish(names.PARKING_EXCHANGE, headers, parked, outcome, now)

    def _republish(
        self, exchange: str, headers: dict[str, object], waybill: Waybill, outcome: Outcome, now: Instant
    ) -> Step:
        key = self._delivery.queue or ""
        self._copy = Republish(
            exchange=exchange, routing_key=key, headers=headers, waybill=waybill, outcome=outcome
        )
        self._copy_since = now.monotonic
        return Step(self._copy)

    def _copied(self) -> Step:
        copy = self._copy
        if copy is None:
            msg = "a copy was reported published, but none was asked for"
            raise RuntimeError(msg)
        return Step(Ack(outcome=copy.outcome), (Ended(queue=self._delivery.queue, outcome=copy.outcome),))

    def _unconfirmed(self, error: str, now: Instant) -> Step:
        events = (Unconfirmed(queue=self._delivery.queue, error=error),)
        if now.monotonic - self._copy_since >= self._spec.hold_max:
            return self._end(GiveBack, Result.GIVEN_BACK, events)
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE)
        return Step(Wait(seconds=pause), events)

    def _end(self, verdict: type[Ack | GiveBack | Leave], result: Result, events: tuple[Event, ...]) -> Step:
        outcome = self._outcome(result, None)
        return Step(verdict(outcome=outcome), (*events, Ended(queue=self._delivery.queue, outcome=outcome)))

    def _outcome(
        self,
        result: Result,
        error: BaseException | None,
        *,
        reason: Reason | None = None,
        delay: float | None = None,
    ) -> Outcome:
        return Outcome(result=result, attempt=self._waybill.attempt, reason=reason, delay=delay, error=error)

    def _next(self) -> Waybill:
        return self._identified().retried()

    def _identified(self) -> Waybill:
        return self._waybill if self._waybill.id else replace(self._waybill, id=self._identity())

    def _release(self) -> None:
        if self._breaker is not None and self._permit is not None:
            self._breaker.release(self._permit)
            self._permit = None


def _expiry(delivery: Delivery, hop: Hop | None, received: Instant) -> float | None:
    """Return the monotonic time after which the message is not worth another run, by its own expiration.

    The broker counts from the publish, which nobody here has seen: this counts from the arrival of the
    original, and once that has passed from its first failure.
    """
    milliseconds = number(delivery.expiration if hop is None else hop.expiration)
    if milliseconds is None:
        return None
    known = None if hop is None else hop.first_failed_at
    since = received.wall if known is None else known / 1000
    return received.monotonic + since - received.wall + milliseconds / 1000


def _reached(moment: float | None, now: float) -> bool:
    return moment is not None and now >= moment


def _known(changed: BreakerChanged | None) -> tuple[BreakerChanged, ...]:
    return () if changed is None else (changed,)
