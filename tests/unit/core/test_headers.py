"""AMQP header tables: read without trust, changed only in copies."""

from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_waybill import names
from otel_waybill.core.headers import for_copy, for_handler, number, ours, snapshot, text, without_ours

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=300)
    | st.binary(max_size=300)
    | st.decimals()
    | st.datetimes(timezones=st.just(UTC))
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)
tables = st.dictionaries(
    st.sampled_from([*names.END_TO_END_HEADERS, "waybill-attempt", "x-death", "CC", "tenant"]) | st.text(),
    values,
)


@given(values)
def test_reading_is_total(value: object) -> None:
    """No value that a header can hold raises: it is read as what it should be, or as absent."""
    read = text(value)
    assert read is None or (read.isascii() and read.isprintable() and 1 <= len(read) <= 255)
    counted = number(value, 0, 10)
    assert counted is None or 0 <= counted <= 10


@pytest.mark.parametrize("value", ["123456", b"123456", bytearray(b"123456")])
def test_text_may_arrive_as_bytes(value: object) -> None:
    """Clients disagree about text and bytes; both are read."""
    assert "123456" == text(value)


@pytest.mark.parametrize("value", ["a" * 255, b"a" * 255])
def test_longest_text_is_read(value: object) -> None:
    """As many octets as a short string of AMQP holds."""
    assert "a" * 255 == text(value)


@pytest.mark.parametrize(
    "value", ["", b"", "ä", b"\xff", "a\nb", "a\n", "\x7f", "a" * 256, b"a" * 256, 5, ["a"]]
)
def test_what_is_not_short_printable_ascii_is_no_text(value: object) -> None:
    """Text that could break a log line, a header or a bound is read as absent."""
    assert text(value) is None


@pytest.mark.parametrize("value", [7, "7", b"7", "007"])
def test_numbers_are_integers_of_any_width_or_decimals(value: object) -> None:
    """A number counts whichever integer type or text a client made of it."""
    assert 7 == number(value)


@pytest.mark.parametrize(
    "value",
    [
        *[True, False, None, 1.0, float("nan"), Decimal(1), datetime(2026, 1, 1, tzinfo=UTC), [1], {"n": 1}],
        *["", "-1", "+1", "1.0", "1e3", " 1", "1_000", "٣", "²", "1" * 16, "9" * 5000, -1, 10**15],
    ],
)
def test_what_is_not_a_plain_decimal_is_no_number(value: object) -> None:
    """Signs, fractions, other scripts and numbers beyond all reason are read as absent."""
    assert number(value) is None


def test_numbers_have_bounds() -> None:
    """The bounds belong to what is allowed, one beyond does not."""
    assert [None, 1, 3, None] == [number(value, 1, 3) for value in (0, 1, 3, 4)]
    assert 10**15 - 1 == number("9" * 15)


@given(tables)
def test_forwarding_forwards_no_waybill(table: dict[str, object]) -> None:
    """Whoever forwards the headers of a message forwards the user's, all of them, and none of ours."""
    kept = without_ours(MappingProxyType(table))
    assert {key: value for key, value in table.items() if not key.startswith("waybill-")} == kept
    assert kept is not table


def test_no_headers_are_no_headers() -> None:
    """A message without a header table is a message without headers."""
    assert {} == without_ours(None)


def test_copy_keeps_the_users_headers_and_drops_the_brokers() -> None:
    """A copy carries what the user wrote, whatever its type; what the broker wrote would divert it."""
    users = {
        "tenant": "acme",
        "nested": {"list": [1, 2.5]},
        "x-priority-class": "gold",
        "cc": "kept",
        b"\xff": "odd",
    }
    brokers = {
        "x-death": [{"queue": "orders"}],
        "x-first-death-queue": "orders",
        "x-first-death-reason": "expired",
        "x-last-death-exchange": "shop",
        "x-delivery-count": 3,
        "x-acquired-count": 4,
        "x-opt-delivery-time": 5,
        "CC": ["audit"],
        "BCC": ["spy"],
        "waybill-attempt": "7",
    }
    table: dict[str, object] = {**brokers, **users}  # type: ignore[dict-item]  # pika leaves odd names as bytes
    before = dict(table)
    assert users == for_copy(table)
    assert before == table


def test_handler_of_a_retry_sees_the_original_headers() -> None:
    """Only the end-to-end facts are still there: no attempt, no origin, no death of our ladder."""
    table = {
        "tenant": "acme",
        names.HEADER_DEADLINE: "1764000005000",
        names.HEADER_ATTEMPT: "2",
        names.HEADER_ORIGIN_EXCHANGE: "shop",
        "x-death": [{}],
    }
    assert {"tenant": "acme", names.HEADER_DEADLINE: "1764000005000"} == for_handler(table)


@given(tables)
def test_table_is_ours_and_what_is_not(table: dict[str, object]) -> None:
    """Each header is on one of the two sides, as it was."""
    mine, others = ours(table), without_ours(table)
    assert all(key.startswith("waybill-") for key in mine)
    assert not any(key.startswith("waybill-") for key in others)
    assert table.keys() == mine.keys() | others.keys()
    assert all(table[key] is value for key, value in (mine | others).items())


def test_snapshot_is_nobody_elses() -> None:
    """What a handler does to the headers that it was given changes none that were received, at any depth."""
    part = object()
    table: dict[str, Any] = {"tags": ["new", {"of": ["shop"]}], "tables": {"a": {"b": [1]}}, "part": part}
    taken = snapshot(table)
    assert table == taken
    assert part is taken["part"], "only tables and arrays can be changed"
    table["tags"][1]["of"].append("other")
    table["tables"]["a"]["b"].append(2)
    table["late"] = True
    assert {"tags": ["new", {"of": ["shop"]}], "tables": {"a": {"b": [1]}}, "part": part} == taken
    assert {} == snapshot(None) == snapshot({})
