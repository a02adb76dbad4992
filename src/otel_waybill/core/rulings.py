"""What follows from an arrival or a failure: the order of the questions is fixed, and this is its place.

On arrival. A crash loop: parked. A classic queue hands it out again, and that is to count: put off. Before
its time: put off.

After a failure. No failure: handled. Permanent: parked. Deadline passed: parked. A refusal that costs
nothing: put off. Attempts, the request's retries or the time for them used up: parked. The wait would outlast
the deadline: parked at once. Budget empty: put off. Else: another run.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from otel_waybill import names
from otel_waybill.core.backoff import LONGEST_DELAY
from otel_waybill.core.bounds import Bounds, reached
from otel_waybill.core.delivery import Delivery, Instant, Reason
from otel_waybill.core.headers import number
from otel_waybill.core.match import matches
from otel_waybill.core.retry import REDELIVERIES, Retry
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.topology import SHORTEST, rung
from otel_waybill.core.waybill import Hop, Waybill
from otel_waybill.errors import CircuitOpen

# Seconds below which nobody else would get to work, and redeliveries that are not spent on waiting.
_STANDBY: Final = 1.0
_LAST_REDELIVERIES: Final = 3
# Milliseconds, at most, for which a message goes away that was held for too long.
_DEFERRAL: Final = 30_000

Budget = Callable[[float], bool]
"""Whether one more retry is allowed at a monotonic time; it is spent by asking."""


class Ignored(NamedTuple):
    """The exception is no failure."""


class Parked(NamedTuple):
    """It will not run again."""

    reason: Reason
    error: BaseException | None


class Cost(Enum):
    """What it costs a message to come back."""

    ATTEMPT = "one of its attempts"
    DEFERRAL = "one of its deferrals"
    NOTHING = "nothing"


class Again(NamedTuple):
    """It will come back.

    Attributes:
        wait: seconds until then, as asked for.
        rung: the milliseconds of the rung on which it waits; None: it is held.
        cost: what that costs it.
        error: what the handler raised, if it did.
    """

    wait: float
    rung: int | None
    cost: Cost
    error: BaseException | None = None

    @property
    def seconds(self) -> float:
        """How long it really waits, at least."""
        return self.wait if self.rung is None else max(self.wait, self.rung / 1000)


Ruling = Ignored | Parked | Again


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a failure is judged by.

    Attributes:
        spec: the policy.
        declared: the rungs that it has, in ascending milliseconds.
        waybill: of the attempt that failed.
        bounds: until when it is worth another run.
        budget: None allows every retry.
    """

    spec: PolicySpec
    declared: Sequence[int]
    waybill: Waybill
    bounds: Bounds
    budget: Budget | None

    def on_arrival(self, delivery: Delivery, now: Instant) -> Parked | Again | None:
        """Rule on *delivery* as it comes; None: there is nothing against a run."""
        retry, hop = self.spec.retry, self.waybill.hop
        if self._redeliveries_left(delivery) <= 0:
            # Not one more: with its default limit of 20, RabbitMQ 4 drops the message after this delivery.
            return Parked(Reason.CRASH_LOOP, None)
        if retry is not None and retry.classic_guard and _is_from_a_classic_queue_again(delivery):
            again = self._in_time(retry, self._away(SHORTEST, Cost.ATTEMPT), now)
            last = self.waybill.attempt >= retry.attempts or isinstance(again, Parked)
            return Parked(Reason.CRASH_LOOP, None) if last else again
        left = 0.0 if hop is None or hop.not_before is None else hop.not_before / 1000 - now.wall
        return self._away(left, Cost.NOTHING) if left > 0.0 else None

    def stands_by(self, delivery: Delivery, seconds: float) -> bool:
        """Return whether a breaker that is open for *seconds* is a reason to leave the queue to others.

        Not for a blink, and not if giving it back, which costs one of its redeliveries, may be too dear.
        """
        dear = self._redeliveries_left(delivery) <= _LAST_REDELIVERIES
        return self.spec.single_active and seconds >= _STANDBY and not dear

    def after(self, error: BaseException | None, now: Instant, u: float) -> Ruling:
        """Rule on an attempt that failed with *error*, None for a nack, at *now*; *u* in [0, 1) is chance."""
        retry = self.spec.retry
        if retry is None:
            late = reached(self.bounds.due, now.monotonic)
            return Parked(Reason.DEADLINE if late else Reason.MAX_ATTEMPTS, error)
        try:
            return self._under(retry, error, now, u)
        except Exception as fault:  # noqa: BLE001 - a predicate of the user's raised: a person has to look at it
            return Parked(Reason.PERMANENT, fault)

    def let_go(self) -> Again:
        """Rule on a message that was held for too long: away for a while, and then it waits here again.

        It has not run, so its deadline is judged when it comes back.
        """
        # No longer than one rung, since every further one is a trip through the broker.
        return self._away(min([_DEFERRAL, *self.declared[-1:]]) / 1000, Cost.NOTHING)

    def _away(self, wait: float, cost: Cost, error: BaseException | None = None) -> Again:
        milliseconds = rung(wait, self.declared)
        if milliseconds is None:
            # Longer than a blink only where the order is kept, or where an error asks for it.
            wait = min(wait, self.spec.hold_max)
        return Again(wait, milliseconds, cost, error)

    def _under(self, retry: Retry, error: BaseException | None, now: Instant, u: float) -> Ruling:
        if error is not None and matches(retry.ignore, error):
            return Ignored()
        free = (self.waybill.hop or Hop()).deferrals < retry.max_deferrals
        cost = Cost.DEFERRAL if free and isinstance(error, CircuitOpen) and error.defer else Cost.ATTEMPT
        final = self._final(retry, error, cost, now)
        if final is not None:
            return Parked(final, error)
        asked, usual = _asked(error), retry.backoff.delay(self.waybill.attempt, u)
        delay = usual if asked is None else asked
        if isinstance(error, CircuitOpen):
            # Nobody knows when a probe ends: to ask sooner than usual would use up the attempts for nothing.
            delay = max(delay, usual)
        ruling = self._in_time(retry, self._away(delay, cost, error), now)
        if isinstance(ruling, Parked) or cost is Cost.DEFERRAL or not free or self._affords(now):
            return ruling
        return self._in_time(retry, self._away(retry.backoff.ceiling, Cost.DEFERRAL, error), now)

    def _affords(self, now: Instant) -> bool:
        return self.budget is None or self.budget(now.monotonic)

    def _final(self, retry: Retry, error: BaseException | None, cost: Cost, now: Instant) -> Reason | None:
        """Return why there is no further run, if that is so."""
        waybill = self.waybill
        if error is not None and (matches(retry.park, error) or not matches(retry.on, error)):
            return Reason.PERMANENT
        if reached(self.bounds.due, now.monotonic):
            return Reason.DEADLINE
        if cost is Cost.DEFERRAL:
            return None
        if waybill.attempt >= retry.attempts:
            return Reason.MAX_ATTEMPTS
        limited = waybill.retry_limit is not None and waybill.retries >= waybill.retry_limit
        return Reason.RETRY_LIMIT if limited else None

    def _redeliveries_left(self, delivery: Delivery) -> int:
        count = number(delivery.headers.get(names.HEADER_DELIVERY_COUNT)) or 0
        return (REDELIVERIES if self.spec.retry is None else self.spec.retry.redeliveries) - count

    def _in_time(self, retry: Retry, again: Again, now: Instant) -> Parked | Again:
        """Return *again*, unless it would come back too late."""
        if self.bounds.passed(now.monotonic + again.seconds):
            return Parked(Reason.DEADLINE_BEFORE_RETRY, again.error)
        first = None if self.waybill.hop is None else self.waybill.hop.first_failed_at
        since = 0.0 if first is None else now.wall - first / 1000
        if retry.elapsed is not None and since + again.seconds > retry.elapsed:
            return Parked(Reason.MAX_ELAPSED, again.error)
        return again


def _is_from_a_classic_queue_again(delivery: Delivery) -> bool:
    return delivery.redelivered and names.HEADER_DELIVERY_COUNT not in delivery.headers


def _asked(error: BaseException | None) -> float | None:
    """Return the seconds after which *error* itself asks to try again, if it does."""
    asked = getattr(error, "retry_after", None)
    total_seconds = getattr(asked, "total_seconds", None)
    if callable(total_seconds):  # a timedelta
        asked = total_seconds()
    if isinstance(asked, bool) or not isinstance(asked, int | float) or not 0 <= asked < math.inf:
        return None
    return float(min(asked, LONGEST_DELAY))
