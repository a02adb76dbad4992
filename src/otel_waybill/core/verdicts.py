"""What a driver is told to do, and what it reports back.

A verdict that ends a delivery carries its outcome; every other one is answered with a report.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from otel_waybill.core.breaker import Permit
from otel_waybill.core.delivery import Outcome
from otel_waybill.core.events import Event
from otel_waybill.core.line import Bell
from otel_waybill.core.waybill import Waybill


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Call the handler.

    Attributes:
        attempt: which run of the message this is, from 1.
        due: monotonic time at which its deadline passes, or None.
        permit: the breaker's permit for this run, or None.
        held: seconds for which the delivery waited before.
        fallback: whether to call the substitute in its place.
        strict: whether it may publish no more once that has passed.
    """

    attempt: int
    due: float | None = None
    permit: Permit | None = None
    held: float = 0.0
    fallback: bool = False
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Hold the delivery, unacknowledged, for so many seconds, or until its *bell* rings."""

    seconds: float
    bell: Bell | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Republish:
    """Publish a copy, persistent and mandatory, and report whether it was confirmed and routed.

    Attributes:
        exchange: a rung of the ladder, or the parking exchange.
        routing_key: the consumed queue's name, which the ladder preserves.
        headers: everything but the trace headers, which belong to whoever sends.
        waybill: what the headers say, for the baggage beside them.
        outcome: what becomes of the delivery once the copy is safe.
    """

    exchange: str
    routing_key: str
    headers: Mapping[str, object]
    waybill: Waybill
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Acknowledge the delivery: it is handled, or its copy is safe."""

    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveBack:
    """Return the delivery to its queue, uncounted.

    Attributes:
        outcome: what became of it.
        standby: if not None, the consumer leaves its queue first, and comes back after so many seconds.
    """

    outcome: Outcome
    standby: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Send nothing: the handler has settled it, will settle it later, or nobody can any more."""

    outcome: Outcome


Verdict = Run | Wait | Republish | Ack | GiveBack | Leave


@dataclass(frozen=True, slots=True)
class Step:
    """One verdict, and what happened on the way to it."""

    verdict: Verdict
    events: tuple[Event, ...] = ()


class Settled(Enum):
    """What a handler itself said to the broker about its delivery."""

    ACK = "ack"
    REFUSED = "nack or reject, intercepted"


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned, having settled its delivery or not."""

    settled: Settled | None = None


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler raised; a delivery that it had acknowledged before stays acknowledged."""

    error: BaseException
    settled: Settled | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The work was stopped from outside: unless acknowledged or *copied* before, it counts for nothing."""

    settled: Settled | None = None
    copied: bool = False


@dataclass(frozen=True, slots=True)
class Waited:
    """The wait is over."""


@dataclass(frozen=True, slots=True)
class Published:
    """The copy is confirmed and routed, or *error* says why it may not be."""

    error: str | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """The channel is gone, so the broker has taken the delivery back by itself."""


Report = Returned | Raised | Cancelled | Waited | Published | Gone
