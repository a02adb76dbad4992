"""The waybill: what travels with a message, and its two encodings on the wire.

End-to-end facts travel as headers and as W3C baggage; the header wins, because baggage above 8192 bytes
is dropped whole. Facts of one hop are headers only and are believed only from the return exchange, which
the broker's permissions guard. ``docs/wire-format.md`` specifies both.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from otel_waybill import names
from otel_waybill.core.belief import BELIEF, Belief, Claim, Judged, judge
from otel_waybill.core.delivery import Delivery
from otel_waybill.core.headers import LONGEST_TEXT, number, text

T = TypeVar("T")

LONGEST_REQUEST_ID = 128
LARGEST_COUNT = 1_000_000


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
    not_before: int | None = None
    deferrals: int = 0


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
    """What a message says, as far as it is believed.

    Attributes:
        waybill: the facts.
        invalid: names of the facts that arrived malformed and were read as absent.
        skew: seconds by which the sender's clock is ahead of ours, at least; 0 within the tolerance.
    """

    waybill: Waybill
    invalid: tuple[str, ...] = ()
    skew: float = 0.0


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


def decode(delivery: Delivery, baggage: Mapping[str, object], *, now: float, belief: Belief) -> Decoded:
    """Return the waybill of *delivery*; never raises, whatever the message holds.

    Args:
        delivery: the delivery as it came.
        baggage: the W3C baggage that came with it, decoded.
        now: Unix time, seconds.
        belief: how much of its end-to-end facts is believed; the rest is absent, and nobody is told.
    """
    invalid: list[str] = []
    facts = _Reader(delivery.headers, invalid)
    hop = _hop(facts) if delivery.exchange == names.RETURN_EXCHANGE else None
    believed = belief.in_sender(delivery.user_id if hop is None else hop.user_id)
    # The headers of a copy are our own: they say what was believed when its original came. Its baggage may
    # still be that of the original.
    headers = delivery.headers if believed or hop is not None else {}
    waybill, skew = _end_to_end(headers, baggage if believed else {}, invalid, now, belief)
    if delivery.message_id:
        identity = delivery.message_id
        waybill = Waybill(id=identity) if waybill is EMPTY else replace(waybill, id=identity)
    if hop is not None:
        waybill = _again(waybill, hop, facts)
    return Decoded(waybill, tuple(invalid), skew)


def decode_end_to_end(headers: Mapping[str, object], baggage: Mapping[str, object], *, now: float) -> Decoded:
    """Return what came by another way than a delivery, as over HTTP; never raises.

    Args:
        headers: by their names in lower case.
        baggage: the W3C baggage beside them, decoded.
        now: Unix time, seconds.
    """
    invalid: list[str] = []
    waybill, skew = _end_to_end(headers, baggage, invalid, now, BELIEF)
    return Decoded(waybill, tuple(invalid), skew)


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


def expiration(seconds: float, own: str | None) -> str:
    """Return the property ``expiration`` of a message that nobody waits for after so many *seconds*.

    Args:
        seconds: what is left; with nothing left it is the shortest that lets a waiting consumer have it.
        own: the message's own expiration in milliseconds, which is never made longer; None without one.
            One that is no number is returned as it is, for the broker to say what is wrong.
    """
    milliseconds = max(1, math.ceil(seconds * 1000))
    if own is None:
        return str(milliseconds)
    known = number(own)
    return own if known is None else str(min(known, milliseconds))


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


def _end_to_end(
    headers: Mapping[str, object],
    baggage: Mapping[str, object],
    invalid: list[str],
    now: float,
    belief: Belief,
) -> tuple[Waybill, float]:
    """Return the facts, each from the headers if it can be read there, and the skew of the deadline."""
    # Most messages carry nothing of ours: look before building readers.
    sources = []
    if not _HEADERS.isdisjoint(headers):
        sources.append(_Reader(headers, invalid))
    if not _MEMBERS.isdisjoint(baggage):
        carried = {
            header: _member(header, baggage[key]) for header, key in BAGGAGE_KEYS.items() if key in baggage
        }
        sources.append(_Reader(carried, invalid))
    if not sources:
        return EMPTY, 0.0
    request_id = _first(facts.read(names.HEADER_REQUEST_ID, _request_id) for facts in sources)
    deadline, skew = _deadline(sources, belief, now)
    waybill = Waybill(
        request_id=request_id,
        deadline=deadline,
        retries=_first(facts.count(names.HEADER_RETRIES) for facts in sources) or 0,
        retry_limit=_first(facts.count(names.HEADER_RETRY_LIMIT) for facts in sources),
    )
    return waybill, skew


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


def _member(header: str, value: object) -> object:
    # OpenTelemetry for Python leaves the properties of a member glued to its value. A request id keeps its
    # semicolons: once decoded, nothing tells its own from those of a property.
    if header == names.HEADER_REQUEST_ID or not isinstance(value, str):
        return value
    return value.partition(";")[0].rstrip()


def _deadline(sources: list[_Reader], belief: Belief, now: float) -> Judged:
    if belief.deadline == "ignore":
        return Judged(None)
    claim = _first(_claim(facts) for facts in sources)
    return Judged(None) if claim is None else judge(claim, belief, now)


def _claim(facts: _Reader) -> Claim | None:
    deadline = facts.read(names.HEADER_DEADLINE, number)
    timeout = facts.read(names.HEADER_TIMEOUT, number)
    return None if deadline is None else Claim(deadline, timeout)


def _hop(facts: _Reader) -> Hop:
    return Hop(
        exchange=facts.read(names.HEADER_ORIGIN_EXCHANGE, _name) or "",
        routing_key=facts.read(names.HEADER_ORIGIN_ROUTING_KEY, _name) or "",
        user_id=facts.read(names.HEADER_ORIGIN_USER_ID, _name),
        expiration=facts.read(names.HEADER_ORIGIN_EXPIRATION, _decimal),
        creation=facts.text(names.HEADER_CREATION),
        previous=facts.text(names.HEADER_PREVIOUS),
        first_failed_at=facts.read(names.HEADER_FIRST_FAILED_AT, number),
        not_before=facts.read(names.HEADER_NOT_BEFORE, number),
        deferrals=facts.count(names.HEADER_DEFERRALS) or 0,
    )


def _again(waybill: Waybill, hop: Hop, facts: _Reader) -> Waybill:
    """Return the *waybill* of a message that comes back from the ladder."""
    attempt = facts.count(names.HEADER_ATTEMPT, low=1)
    return replace(
        waybill, attempt=attempt or 1, id=facts.read(names.HEADER_ID, _name) or waybill.id, hop=hop
    )


def _request_id(value: object) -> str | None:
    return text(value, LONGEST_REQUEST_ID)


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
