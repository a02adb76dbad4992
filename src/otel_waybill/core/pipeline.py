"""One delivery under a policy: every decision from its arrival to its settlement.

A driver calls `start`, performs the verdict of the step it gets and answers with `resume`, until a verdict
ends the delivery. The order of the questions is fixed: crash loop, deadline, breaker before a run; success,
deadline, attempts, delay after it. Only runs count as attempts; waiting never does.
"""

from collections.abc import Callable
from dataclasses import replace

from otel_waybill import names
from otel_waybill.core import copies, verdicts
from otel_waybill.core.delivery import Delivery, Instant, Outcome, Reason, Result
from otel_waybill.core.events import (
    Confirmed,
    Ended,
    Event,
    Held,
    Released,
    RunEnded,
    RunStarted,
    Unconfirmed,
)
from otel_waybill.core.gate import Gate, Turn
from otel_waybill.core.headers import number
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.topology import delay_name, reachable_rung
from otel_waybill.core.verdicts import Ack, GiveBack, Leave, Republish, Run, Settled, Step, Wait
from otel_waybill.core.waybill import Hop, Waybill
from otel_waybill.errors import CircuitOpen

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


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
        self._turn = Turn(breaker)
        self._arrived = received.monotonic
        self._held = self._running = False
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
        if retry is not None and count is not None and count >= retry.redeliveries:
            # Not one more: with its default limit of 20, RabbitMQ 4 drops the message after this delivery.
            return self._park(Reason.CRASH_LOOP, None, now)
        return self._admit(now, u)

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
                return self._abandon(Leave)
            case verdicts.Cancelled(settled=settled, copied=copied) if settled is not Settled.ACK:
                return self._copied(now) if copied else self._abandon(GiveBack)
            case verdicts.Raised(error=error, settled=settled) if settled is not Settled.ACK:
                return self._failed(error, now, u)
            case verdicts.Returned(settled=Settled.REFUSED):
                return self._failed(None, now, u)
            case verdicts.Returned(settled=None):
                return self._left_open() if self._spec.settle == "handler" else self._succeeded(now, u, Ack)
            case verdicts.Returned() | verdicts.Raised() | verdicts.Cancelled():
                return self._succeeded(now, u, Leave)  # acknowledged by the handler itself
        raise AssertionError(report)  # the match is exhaustive; mypy cannot see through its guards

    def _admit(self, now: Instant, u: float) -> Step:
        if _reached(self.due, now.monotonic):
            return self._park(Reason.DEADLINE, None, now)
        admission = self._turn.ask(now.monotonic, u)
        if admission is None:
            return self._run(now, ())
        events = () if admission.changed is None else (admission.changed,)
        return self._run(now, events) if admission.permit else self._hold(admission.retry_after, now, events)

    def _hold(self, wait: float, now: Instant, events: tuple[Event, ...]) -> Step:
        if self.due is not None:
            # Wake up when the deadline passes, so that what cannot run is parked in time.
            wait = min(wait, self.due - now.monotonic)
        if not self._held:
            self._held = True
            events = (*events, Held(queue=self._delivery.queue, breaker=self._turn.name or ""))
        return Step(Wait(seconds=wait), events)

    def _run(self, now: Instant, events: tuple[Event, ...]) -> Step:
        remaining = self.remaining(now.monotonic)
        started = RunStarted(queue=self._delivery.queue, remaining=remaining)
        self._running = True
        run = Run(
            attempt=self._waybill.attempt,
            due=self.due,
            permit=self._turn.permit,
            held=now.monotonic - self._arrived,
        )
        return Step(run, (*events, *self._released(), started))

    def _left_open(self) -> Step:
        # Nobody knows when, or whether, it will be settled: a permit kept until then might never come back.
        return self._end(Leave, Result.OPEN, self._turn.release())

    def _abandon(self, verdict: type[GiveBack | Leave]) -> Step:
        return self._end(verdict, Result.GIVEN_BACK, self._turn.release())

    def _succeeded(self, now: Instant, u: float, verdict: type[Ack | Leave]) -> Step:
        return self._end(verdict, Result.HANDLED, self._turn.succeed(now.monotonic, u))

    def _failed(self, error: BaseException | None, now: Instant, u: float) -> Step:
        events = (*self._turn.fail(error, now.monotonic, u), *self._stopped())
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
        step = self._republish(names.PARKING_EXCHANGE, headers, parked, outcome, now)
        return Step(step.verdict, self._released())

    def _republish(
        self, exchange: str, headers: dict[str, object], waybill: Waybill, outcome: Outcome, now: Instant
    ) -> Step:
        key = self._delivery.queue or ""
        self._copy = Republish(
            exchange=exchange, routing_key=key, headers=headers, waybill=waybill, outcome=outcome
        )
        self._copy_since = now.monotonic
        return Step(self._copy)

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
            return self._end(GiveBack, Result.GIVEN_BACK, events)
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE)
        return Step(Wait(seconds=pause), events)

    def _end(self, verdict: type[Ack | GiveBack | Leave], result: Result, events: tuple[Event, ...]) -> Step:
        outcome = self._outcome(result, None)
        ended = Ended(queue=self._delivery.queue, outcome=outcome)
        return Step(verdict(outcome=outcome), (*events, *self._released(), *self._stopped(), ended))

    def _released(self) -> tuple[Event, ...]:
        held, self._held = self._held, False
        return (Released(queue=self._delivery.queue, breaker=self._turn.name or ""),) if held else ()

    def _stopped(self) -> tuple[Event, ...]:
        running, self._running = self._running, False
        return (RunEnded(queue=self._delivery.queue),) if running else ()

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
