"""Copies: what goes with a message to the ladder and to parking."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_waybill import names
from otel_waybill.core.belief import BELIEF
from otel_waybill.core.copies import parking_headers, remembered, retry_headers, to_ladder, to_parking
from otel_waybill.core.delivery import Delivery, Outcome, Reason, Result
from otel_waybill.core.headers import for_copy
from otel_waybill.core.spec import Describe, PolicySpec
from otel_waybill.core.waybill import Hop, Waybill, decode

NOW = 1_764_000_000.789
TRACE = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
OURS = [
    name for key, name in vars(names).items() if key.startswith("HEADER_") and name.startswith("waybill-")
]

DELIVERY = Delivery(
    queue="orders",
    exchange="shop",
    routing_key="order.created",
    headers={"tenant": "acme", "traceparent": TRACE, "x-death": [{}], "waybill-attempt": "77"},
    message_id="4711",
    user_id="shop",
    expiration="60000",
    consumer="ctag1",
)


class Unspeakable(Exception):  # noqa: N818 - it is one
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        msg = "no words"
        raise LookupError(msg)


def parked(
    error: BaseException | None,
    delivery: Delivery = DELIVERY,
    waybill: Waybill | None = None,
    describe: Describe = str,
) -> dict[str, Any]:
    """The headers of *delivery* when *error* has parked it."""
    outcome = Outcome(result=Result.PARKED, attempt=5, reason=Reason.MAX_ATTEMPTS, error=error)
    return parking_headers(delivery, waybill or Waybill(id="4711", attempt=5), outcome, NOW, describe)


def test_first_copy_remembers_the_original() -> None:
    """Beside the user's headers the copy tells where the message came from and which run comes next."""
    expected = {
        "tenant": "acme",
        "traceparent": TRACE,
        "waybill-retries": "1",
        "waybill-attempt": "2",
        "waybill-id": "4711",
        "waybill-queue": "orders",
        "waybill-creation": TRACE,
        "waybill-origin-exchange": "shop",
        "waybill-origin-routing-key": "order.created",
        "waybill-origin-user-id": "shop",
        "waybill-origin-expiration": "60000",
        "waybill-first-failed-at": "1764000000789",
    }
    assert expected == retry_headers(DELIVERY, Waybill(id="4711", attempt=2, retries=1), NOW)


def test_later_copies_remember_the_same() -> None:
    """After five trips through the ladder the original is still the one that the user published."""
    waybill = Waybill(id="4711", attempt=2)
    first = retry_headers(DELIVERY, waybill, NOW)
    again = Delivery(
        queue="orders",
        exchange=names.RETURN_EXCHANGE,
        routing_key="orders",
        headers=first
        | {"x-death": [{}], "x-first-death-queue": "waybill.delay.v1.1000", "traceparent": "another"},
    )
    decoded = decode(again, {}, now=NOW + 5, belief=BELIEF).waybill
    second = retry_headers(again, decoded.retried(), NOW + 5)
    assert first | {"traceparent": "another", "waybill-attempt": "3", "waybill-retries": "1"} == second


def test_copy_from_no_known_queue_goes_where_what_nobody_can_route_is_kept() -> None:
    """A delivery without a queue has no way back, and is not lost for that."""
    delivery = DELIVERY._replace(queue=None)
    retried = Outcome(result=Result.RETRIED, attempt=1)
    ended = Outcome(result=Result.PARKED, attempt=1, reason=Reason.PERMANENT)
    assert "" == to_ladder(delivery, Waybill(), 1000, retried, NOW).routing_key
    assert "" == to_parking(delivery, Waybill(), ended, PolicySpec(), NOW).routing_key


def test_put_off_copy_says_when_and_how_often() -> None:
    """What costs no attempt travels too; what has not failed says nothing of a failure."""
    waybill = Waybill(id="4711")
    hop = replace(remembered(DELIVERY, waybill, None), not_before=1_764_000_100_000, deferrals=3)
    headers = retry_headers(DELIVERY, replace(waybill, hop=hop), NOW)
    assert ("1764000100000", "3") == (headers["waybill-not-before"], headers["waybill-deferrals"])
    assert "waybill-first-failed-at" not in headers
    again = DELIVERY._replace(exchange=names.RETURN_EXCHANGE, headers=headers)
    assert hop == decode(again, {}, now=NOW, belief=BELIEF).waybill.hop


def test_first_failure_is_remembered_from_then_on() -> None:
    """Of a message that was put off, the first failure is the one that came later; it is then kept."""
    put_off = Waybill(hop=Hop(not_before=5, deferrals=3))
    failed = remembered(DELIVERY, put_off, NOW)
    assert (1_764_000_000_789, None, 3) == (failed.first_failed_at, failed.not_before, failed.deferrals)
    assert failed == remembered(DELIVERY, Waybill(hop=failed), NOW + 60)
    assert failed == remembered(DELIVERY, Waybill(hop=failed), None)
    epoch = Hop(first_failed_at=0)
    assert epoch == remembered(DELIVERY, Waybill(hop=epoch), NOW)


def test_parked_copy_says_why() -> None:
    """Whoever looks at a parked message sees what happened, when, how often and to whom."""
    headers = parked(ValueError("no such order"))
    expected = {
        "waybill-reason": "max-attempts",
        "waybill-exception-type": "ValueError",
        "waybill-exception-message": "no such order",
        "waybill-failed-at": "1764000000789",
        "waybill-first-failed-at": "1764000000789",
        "waybill-consumer": "ctag1",
        "waybill-attempt": "5",
    }
    assert expected == {name: headers.get(name) for name in expected}


def test_message_that_never_failed_has_no_exception() -> None:
    """A message parked at the door names the reason and no exception."""
    assert {"waybill-exception-type", "waybill-exception-message"}.isdisjoint(parked(None))


def test_exception_without_words_parks_all_the_same() -> None:
    """An exception that cannot be put into words does not keep its message from being parked."""
    headers = parked(Unspeakable())
    assert "Unspeakable" == headers["waybill-exception-type"]
    assert "waybill-exception-message" not in headers


@pytest.mark.parametrize("name", ["\udcff.csv", "ä" * 1000, "\udcff" * 1000])
def test_exception_text_can_always_be_written(name: str) -> None:
    """A file name that is not UTF-8, or a text without end, still fits on the wire."""
    message = parked(ValueError(name))["waybill-exception-message"]
    assert 1 <= len(message) <= 512
    assert message.encode()


def test_exception_type_can_always_be_written() -> None:
    """The longest name that one octet string holds, of a class that has a longer one."""
    assert "E" * 255 == parked(type("E" * 300, (Exception,), {})())["waybill-exception-type"]


def octets(headers: dict[str, Any]) -> int:
    """How many octets of *headers* are ours, names and values."""
    return sum(len(name) + len(value) for name, value in headers.items() if name.startswith("waybill-"))


def test_facts_fill_their_room_to_the_last_octet() -> None:
    """A fact that just fits is kept; with one octet more it is left out."""
    bare = DELIVERY._replace(consumer="c")
    room = 8192 - octets(parked(None, bare)) + 1
    filled = parked(None, bare._replace(consumer="c" * room))
    assert 8192 == octets(filled)
    assert "waybill-consumer" not in parked(None, bare._replace(consumer="c" * (room + 1)))
    two = parked(None, DELIVERY._replace(exchange="e" * 5000, routing_key="r" * 5000))
    assert "waybill-origin-exchange" in two
    assert "waybill-origin-routing-key" not in two


@given(
    error=st.none() | st.builds(ValueError, st.text(st.characters(), min_size=0, max_size=5000)),
    long_name=st.booleans(),
    size=st.integers(0, 255),
)
def test_what_is_ours_is_flat_text_of_at_most_8_kib(
    error: BaseException | None, size: int, *, long_name: bool
) -> None:
    """Whatever the message and the failure are, our headers fit into one frame and survive AMQP 1.0."""
    if error is not None and long_name:
        error = type("E" * 10_000, (Exception,), {})(*error.args)
    most = "é" * (size // 2)
    hop = Hop(
        exchange=most, routing_key=most, user_id=most, expiration="9" * 15, creation=TRACE, first_failed_at=1
    )
    waybill = Waybill(
        request_id="r" * 128, deadline=NOW + 5, retries=9, retry_limit=9, attempt=5, id="i" * size, hop=hop
    )
    delivery = Delivery(queue=most, exchange=most, routing_key=most, headers={}, consumer=most)
    headers = parked(error, delivery, waybill)
    assert set(headers) <= set(OURS)
    assert all(isinstance(value, str) for value in headers.values())
    assert sum(len(name) + len(value.encode()) for name, value in headers.items()) <= 8192


@given(
    headers=st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=5),
    texts=st.lists(st.text(st.characters(), max_size=9000), min_size=6, max_size=6),
    name=st.text(min_size=1, max_size=9000),
)
@example(headers={}, texts=["e" * 9000, "", "", "", "", ""], name="orders")
def test_our_headers_are_bounded_whatever_the_facts(
    headers: dict[str, str], texts: list[str], name: str
) -> None:
    """Facts of any length take 8 KiB at most, and never room from the user's own headers."""
    exchange, routing_key, user, expiration, consumer, words = texts
    hop = Hop(exchange=exchange, routing_key=routing_key, user_id=user, expiration=expiration)
    waybill = Waybill(id=name, attempt=5, hop=hop)
    delivery = Delivery(queue=name, exchange="", routing_key="", headers=headers, consumer=consumer)
    kept = for_copy(headers)
    for made in (parked(ValueError(words), delivery, waybill), retry_headers(delivery, waybill, NOW)):
        assert kept == for_copy(made)
        size = sum(
            len(key) + len(value.encode(errors="backslashreplace"))
            for key, value in made.items()
            if key.startswith("waybill-") and isinstance(value, str)
        )
        assert size <= 8192
        assert "5" == made["waybill-attempt"], "what a retry needs comes before what a person reads"


@pytest.mark.parametrize(
    ("expected", "describe"),
    [
        ("ValueError", lambda error: type(error).__name__),
        ("s" * 512, lambda _: "s" * 5000),
        (None, lambda _: None),
        (None, lambda _: ""),
        (None, lambda _: b"bytes"),
        (None, lambda _: 1 // 0),
    ],
)
def test_words_for_a_failure_are_the_users_choice(expected: str | None, describe: Describe) -> None:
    """A text with secrets in it does not reach the broker, and nothing that goes wrong lets it through."""
    headers = parked(ValueError("password=hunter2"), describe=describe)
    assert expected == headers.get("waybill-exception-message")
    assert "ValueError" == headers["waybill-exception-type"]
    assert not any("hunter2" in str(value) for value in headers.values())


def test_trace_that_is_no_text_is_not_remembered() -> None:
    """A hostile traceparent is not carried on as the creation of the message."""
    delivery = Delivery(queue="orders", exchange="", routing_key="orders", headers={"traceparent": [TRACE]})
    headers = retry_headers(delivery, Waybill(), NOW)
    assert {"waybill-creation", "waybill-id", "waybill-origin-user-id"}.isdisjoint(headers)
    assert ("", "orders") == (headers["waybill-origin-exchange"], headers["waybill-origin-routing-key"])
