"""The waybill: what travels with a message, and its two encodings on the wire.

End-to-end facts travel as headers and as W3C baggage; the header wins, because baggage above 8192 bytes
is dropped whole. Facts of one hop are headers only and are believed only from the return exchange, which
the broker's permissions guard. ``docs/wire-format.md`` specifies both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from otel_waybill import names
from otel_waybill.core.delivery import Delivery
from otel_waybill.core.headers import LONGEST_TEXT, number, text

T = TypeVar("T")

LONGEST_REQUEST_ID = 128
LARGEST_COUNT = 1_000_000
LONGEST_DEADLINE = 86_400.0
"""Seconds; a deadline further away is no deadline that anybody waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """What a message that has failed remembers of its original delivery."""

    exchange: str = ""
    routing_key: str = ""
    user_id: str | None = None
    expiration: str | None = None
    creation: str | None = None
    previous: str | None = None
    first_failed_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waybill:
    """What is known about the running work, wherever it came from.

    Attributes:
        request_id: the request behind all this; ASCII, at most 128 characters.
        deadline: Unix time, in seconds, after which the work is not worth doing.
        retries: how many retries the request has cost so far, on every hop.
        retry_limit: how many it may cost in all.
        attempt: which run of this message this is, from 1.
        id: identity of the message across its retries, else its ``message_id``, else None.
        hop: the original delivery, once it has failed.
    """

    request_id: str | None = None
    deadline: float | None = None
    retries: int = 0
    retry_limit: int | None = None
    attempt: int = 1
    id: str | None = None
    hop: Hop | None = None

    def shortened(self, deadline: float | None) -> "Waybill":
        """Return the waybill with the earlier of its deadline and *deadline* (Unix time, seconds)."""
        if deadline is None or (self.deadline is not None and self.deadline <= deadline):
            return self
        return replace(self, deadline=deadline)

    def retried(self) -> "Waybill":
        """Return the waybill of the next run of the same message: one attempt and one retry more.

        Both stop at the largest count that a reader believes; beyond it they would be read as absent.
        """
        attempt, retries = min(self.attempt + 1, LARGEST_COUNT), min(self.retries + 1, LARGEST_COUNT)
        return replace(self, attempt=attempt, retries=retries)

    def detached(self) -> "Waybill":
        """Return the waybill of a fact that outlives its request: no deadline, retries or limit."""
        return replace(self, deadline=None, retries=0, retry_limit=None)


EMPTY = Waybill()


class Decoded(NamedTuple):
    """A waybill, and the names of the facts that arrived malformed and were read as absent."""

    waybill: Waybill
    invalid: tuple[str, ...] = ()


class _Reader:
    """Reads facts out of one untrusted mapping and notes those that are there but make no sense."""

    def __init__(self, facts: Mapping[str, object], invalid: list[str]) -> None:
        self._facts = facts
        self._invalid = invalid

    def read(self, name: str, parse: Callable[[object], T | None]) -> T | None:
        value = self._facts.get(name)
        if value is None:
            return None
        parsed = parse(value)
        if parsed is None:
            self._invalid.append(name)
        return parsed

    def text(self, name: str) -> str | None:
        return self.read(name, text)

    def count(self, name: str, low: int = 0) -> int | None:
        return self.read(name, lambda value: number(value, low, LARGEST_COUNT))


def decode(delivery: Delivery, baggage: Mapping[str, object], *, now: float, max_deadline: float) -> Decoded:
    """Return the waybill of *delivery*; never raises, whatever the message holds.

    Args:
        delivery: the delivery as it came.
        baggage: the W3C baggage that came with it, decoded.
        now: Unix time, seconds.
        max_deadline: seconds; a deadline further away than that is shortened to it.
    """
    invalid: list[str] = []
    waybill = Waybill(id=delivery.message_id) if delivery.message_id else EMPTY
    waybill = _end_to_end(waybill, delivery.headers, baggage, invalid, now, max_deadline)
    if delivery.exchange == names.RETURN_EXCHANGE:
        waybill = _with_hop(waybill, _Reader(delivery.headers, invalid))
    return Decoded(waybill, tuple(invalid))


def from_baggage(baggage: Mapping[str, object], *, now: float, max_deadline: float) -> Waybill:
    """Return what *baggage* alone says, as when the work came in over HTTP."""
    return _end_to_end(EMPTY, {}, baggage, [], now, max_deadline)


def end_to_end_headers(waybill: Waybill, now: float) -> dict[str, str]:
    """Return the headers that every message sent on behalf of *waybill* carries, at Unix time *now*."""
    headers = {}
    if waybill.deadline is not None:
        headers[names.HEADER_DEADLINE] = str(_milliseconds(waybill.deadline))
        headers[names.HEADER_TIMEOUT] = str(_milliseconds(waybill.deadline - now))
    if waybill.request_id is not None:
        headers[names.HEADER_REQUEST_ID] = waybill.request_id
    if waybill.retries:
        headers[names.HEADER_RETRIES] = str(waybill.retries)
    if waybill.retry_limit is not None:
        headers[names.HEADER_RETRY_LIMIT] = str(waybill.retry_limit)
    return headers


BAGGAGE_KEYS: Mapping[str, str] = {
    names.HEADER_DEADLINE: names.BAGGAGE_DEADLINE,
    names.HEADER_TIMEOUT: names.BAGGAGE_TIMEOUT,
    names.HEADER_REQUEST_ID: names.BAGGAGE_REQUEST_ID,
    names.HEADER_RETRIES: names.BAGGAGE_RETRIES,
    names.HEADER_RETRY_LIMIT: names.BAGGAGE_RETRY_LIMIT,
}
"""The baggage key of each end-to-end header; the values are the same."""
_HEADERS = frozenset(BAGGAGE_KEYS)
_MEMBERS = frozenset(BAGGAGE_KEYS.values())


def _end_to_end(  # noqa: PLR0913, PLR0917 - the two sources, and what bounds what is believed of them
    waybill: Waybill,
    headers: Mapping[str, object],
    baggage: Mapping[str, object],
    invalid: list[str],
    now: float,
    most: float,
) -> Waybill:
    # Most messages carry nothing of ours: look before building readers.
    if baggage and not _MEMBERS.isdisjoint(baggage):
        carried = {
            header: _member(header, baggage[key]) for header, key in BAGGAGE_KEYS.items() if key in baggage
        }
        waybill = _overlaid(waybill, _Reader(carried, invalid), now, most)
    if headers and not _HEADERS.isdisjoint(headers):
        waybill = _overlaid(waybill, _Reader(headers, invalid), now, most)
    return waybill


def _member(header: str, value: object) -> object:
    # OpenTelemetry for Python leaves the properties of a member glued to its value. A request id keeps its
    # semicolons: once decoded, nothing tells its own from those of a property.
    if header == names.HEADER_REQUEST_ID or not isinstance(value, str):
        return value
    return value.partition(";")[0].rstrip()


def _overlaid(waybill: Waybill, facts: _Reader, now: float, most: float) -> Waybill:
    """Return *waybill* with every fact that *facts* has and can be read."""
    request_id = facts.read(names.HEADER_REQUEST_ID, lambda value: text(value, LONGEST_REQUEST_ID))
    deadline = _deadline(facts, now, most)
    retries = facts.count(names.HEADER_RETRIES)
    retry_limit = facts.count(names.HEADER_RETRY_LIMIT)
    return replace(
        waybill,
        request_id=waybill.request_id if request_id is None else request_id,
        deadline=waybill.deadline if deadline is None else deadline,
        retries=waybill.retries if retries is None else retries,
        retry_limit=waybill.retry_limit if retry_limit is None else retry_limit,
    )


def _deadline(facts: _Reader, now: float, most: float) -> float | None:
    """Return the deadline in Unix seconds, believed no further than the timeout beside it and *most* allow.

    The timeout is what the sender saw left, so a receiver whose clock is behind never sees more than that.
    """
    deadline = facts.read(names.HEADER_DEADLINE, number)
    timeout = facts.read(names.HEADER_TIMEOUT, number)
    if deadline is None:
        return None
    furthest = now + (most if timeout is None else min(most, timeout / 1000))
    return min(deadline / 1000, furthest)


def _with_hop(waybill: Waybill, facts: _Reader) -> Waybill:
    hop = Hop(
        exchange=facts.read(names.HEADER_ORIGIN_EXCHANGE, _name) or "",
        routing_key=facts.read(names.HEADER_ORIGIN_ROUTING_KEY, _name) or "",
        user_id=facts.read(names.HEADER_ORIGIN_USER_ID, _name),
        expiration=facts.read(names.HEADER_ORIGIN_EXPIRATION, _decimal),
        creation=facts.text(names.HEADER_CREATION),
        previous=facts.text(names.HEADER_PREVIOUS),
        first_failed_at=facts.read(names.HEADER_FIRST_FAILED_AT, number),
    )
    attempt = facts.count(names.HEADER_ATTEMPT, low=1)
    return replace(
        waybill, attempt=attempt or 1, id=facts.read(names.HEADER_ID, _name) or waybill.id, hop=hop
    )


def _decimal(value: object) -> str | None:
    # The broker accepts no other expiration, so no handler expects one.
    return None if number(value) is None else str(number(value))


def _name(value: object) -> str | None:
    # What a client reads from a short string: any UTF-8 of at most 255 octets, the empty one included.
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        return None
    try:
        return value if len(value.encode()) <= LONGEST_TEXT else None
    except UnicodeEncodeError:
        return None


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))
