"""Limits: what may be asked for, and by what messages are told apart."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_waybill.core.delivery import Delivery
from otel_waybill.core.limits import ConcurrencyLimit, RateLimit, key_of
from otel_waybill.core.waybill import Hop, Waybill
from unit.core.objections import objection

HEADER = "header:tenant"
BURST = "burst >= 1, or None for all of the runs"
BY = "by 'routing_key' or 'header:NAME', or None for the whole queue"
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def delivery(tenant: object) -> Delivery:
    """A delivery whose header says *tenant*."""
    return Delivery(queue="orders", exchange="shop", routing_key="order.created", headers={"tenant": tenant})


@pytest.mark.parametrize(
    ("expected", "make"),
    [
        ("runs >= 1, got 0", lambda: RateLimit(0)),
        ("a whole number as runs, got nan", lambda: RateLimit(math.nan)),  # type: ignore[arg-type]  # from a file, perhaps
        ("a whole number as runs, got inf", lambda: RateLimit(math.inf)),  # type: ignore[arg-type]
        ("0 < per < inf (seconds), got 0", lambda: RateLimit(1, per=0)),
        ("0 < per < inf (seconds), got inf", lambda: RateLimit(1, per=math.inf)),
        ("0 < per < inf (seconds), got nan", lambda: RateLimit(1, per=math.nan)),
        (f"{BURST}, got 0", lambda: RateLimit(1, burst=0)),
        ("a whole number, or None as burst, got inf", lambda: RateLimit(1, burst=math.inf)),  # type: ignore[arg-type]
        ("concurrency >= 1, got 0", lambda: ConcurrencyLimit(0)),
        (f"{BY}, got 'tenant'", lambda: RateLimit(1, by="tenant")),
        (f"{BY}, got ''", lambda: RateLimit(1, by="")),
        (f"{BY}, got 'header:'", lambda: ConcurrencyLimit(1, by="header:")),
    ],
)
def test_limits_out_of_range_are_refused(expected: str, make: Callable[[], object]) -> None:
    """A limit that cannot be kept is an error when it is written down, not when messages come."""
    assert f"need {expected}" == objection(make)


def test_smallest_limits_are_allowed() -> None:
    """One at a time, and one per day."""
    assert (1, None, "routing_key") == (
        ConcurrencyLimit(1).runs,
        RateLimit(1, per=86_400.0).burst,
        RateLimit(1, burst=1, by="routing_key").by,
    )


def test_without_a_key_the_queue_is_limited() -> None:
    """All messages share the limit, whatever they say."""
    assert key_of(None, delivery("acme"), Waybill()) is None


def test_routing_key_is_the_original_one() -> None:
    """A message that comes back from the ladder is limited like the one that was sent."""
    assert "order.created" == key_of("routing_key", delivery(None), Waybill())
    hop = Hop(routing_key="order.paid")
    assert "order.paid" == key_of("routing_key", delivery(None), Waybill(hop=hop))


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("acme", "acme"),
        (b"acme", "acme"),
        (7, "7"),
        ("7", "7"),
        ("007", "007"),
        (None, None),
        ("", None),
        ("a" * 256, None),
        ("ä", None),
        (True, None),
        (-7, None),
        (["acme"], None),
        ({"acme": 1}, None),
        (b"\xff", None),
    ],
)
def test_header_tells_messages_apart(value: object, key: str | None) -> None:
    """A header of any sane type is a key; anything else shares the limit of those without."""
    assert key == key_of(HEADER, delivery(value), Waybill())


@given(anything)
def test_no_header_stops_a_consumer(value: object) -> None:
    """Whatever strangers write there, the key is short text or none."""
    key = key_of(HEADER, delivery(value), Waybill())
    assert key is None or 1 <= len(key) <= 255
