"""Until when one delivery is worth a run: its deadline, and its own expiration."""

from typing import NamedTuple

from otel_waybill.core.delivery import Delivery, Instant
from otel_waybill.core.headers import number
from otel_waybill.core.waybill import Waybill


class Bounds(NamedTuple):
    """Monotonic times, computed once when the delivery arrives; None where there is no bound.

    Attributes:
        due: when the deadline passes, with the tolerance for clocks that differ.
        expires: when the message has outlived its expiration, by which retries are bounded as well.
    """

    due: float | None = None
    expires: float | None = None

    def shortened(self, wait: float, now: float) -> float:
        """Return *wait* seconds, or as many as there are until the deadline passes."""
        return wait if self.due is None else min(wait, self.due - now)

    def passed(self, now: float) -> bool:
        """Return whether either is *now* or earlier."""
        return reached(self.due, now) or reached(self.expires, now)


def bounds(delivery: Delivery, waybill: Waybill, received: Instant, tolerance: float) -> Bounds:
    """Return the bounds of *delivery*, *received* with *waybill*; *tolerance* is in seconds."""
    due = None
    if waybill.deadline is not None:
        due = received.monotonic + waybill.deadline - received.wall + tolerance
    return Bounds(due, _expiry(delivery, waybill, received))


def reached(moment: float | None, now: float) -> bool:
    """Return whether *now* is *moment* or later; there may be no such moment."""
    return moment is not None and now >= moment


def _expiry(delivery: Delivery, waybill: Waybill, received: Instant) -> float | None:
    # The broker counts from the publish, which nobody here has seen: this counts from the arrival, and once
    # that has passed from the first failure.
    hop = waybill.hop
    milliseconds = number(delivery.expiration if hop is None else hop.expiration)
    if milliseconds is None:
        return None
    known = None if hop is None else hop.first_failed_at
    since = received.wall if known is None else known / 1000
    return received.monotonic + since - received.wall + milliseconds / 1000
