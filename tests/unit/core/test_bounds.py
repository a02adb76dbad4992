"""Bounds: computed once, on the clock that nobody sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_waybill.core.bounds import Bounds, bounds, reached
from otel_waybill.core.delivery import Delivery, Instant
from otel_waybill.core.waybill import Hop, Waybill

RECEIVED = Instant(1000.0, 1_764_000_000.0)


def of(waybill: Waybill, expiration: str | None = None) -> Bounds:
    """The bounds of a message received now."""
    delivery = Delivery(queue="orders", exchange="", routing_key="orders", headers={}, expiration=expiration)
    return bounds(delivery, waybill, RECEIVED, tolerance=1.0)


def test_nothing_is_bounded_without_a_reason() -> None:
    """No deadline and no expiration: for ever."""
    assert Bounds(None, None) == of(Waybill())
    assert not Bounds().passed(1e300)


def test_deadline_has_the_tolerance() -> None:
    """Clocks may differ: five seconds left are six here."""
    assert Bounds(due=1006.0) == of(Waybill(deadline=RECEIVED.wall + 5))


@pytest.mark.parametrize(
    ("hop", "expires"),
    [
        (None, 1003.0),
        (Hop(), None),
        (Hop(expiration="9000"), 1009.0),
        (Hop(expiration="9000", first_failed_at=1_763_999_996_000), 1005.0),
        (Hop(expiration="9000", first_failed_at=0), 1009.0 - RECEIVED.wall),
        (Hop(expiration="soon"), None),
    ],
)
def test_expiration_counts_from_the_first_failure(hop: Hop | None, expires: float | None) -> None:
    """That of the original, from its arrival or, once it has failed, from then; never that of a copy."""
    assert expires == of(Waybill(hop=hop), "3000").expires


@given(due=st.none() | st.floats(0, 10), expires=st.none() | st.floats(0, 10), now=st.floats(0, 10))
def test_whichever_comes_first(due: float | None, expires: float | None, now: float) -> None:
    """A bound has passed when it is reached, and not before."""
    assert reached(due, now) == (due is not None and due <= now)
    assert Bounds(due, expires).passed(now) == (reached(due, now) or reached(expires, now))
