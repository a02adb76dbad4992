"""The two copies that we publish, to the ladder and to parking, and their headers.

Only flat text: tables and arrays are not converted to AMQP 1.0, and names that begin with ``x-`` are the
broker's (https://www.rabbitmq.com/docs/conversions).
"""

from dataclasses import replace

from otel_waybill import names
from otel_waybill.core.delivery import Delivery, Outcome
from otel_waybill.core.headers import LONGEST_TEXT, for_copy, text
from otel_waybill.core.spec import Describe, PolicySpec
from otel_waybill.core.topology import delay_name, parking_key
from otel_waybill.core.verdicts import Republish
from otel_waybill.core.waybill import Hop, Waybill, end_to_end_headers

LONGEST_EXCEPTION_MESSAGE = 512
"""Characters kept of an exception's text."""

LARGEST_FACTS = 8192
"""Octets of all our headers of one message, names and values; one frame must hold them and the user's."""


def to_ladder(delivery: Delivery, waybill: Waybill, rung: int, outcome: Outcome, now: float) -> Republish:
    """Return the copy of *delivery* that waits *rung* milliseconds for the run of *waybill*."""
    return Republish(
        exchange=delay_name(rung),
        routing_key=delivery.queue or "",
        headers=retry_headers(delivery, waybill, now),
        waybill=waybill,
        outcome=outcome,
    )


def to_parking(
    delivery: Delivery, waybill: Waybill, outcome: Outcome, spec: PolicySpec, now: float
) -> Republish:
    """Return the copy of *delivery* that is parked with *outcome* where *spec* says."""
    return Republish(
        exchange=names.PARKING_EXCHANGE,
        routing_key=parking_key(delivery.queue or "", spec.parking),
        headers=parking_headers(delivery, waybill, outcome, now, spec.describe),
        waybill=waybill,
        outcome=outcome,
    )


def retry_headers(delivery: Delivery, waybill: Waybill, now: float) -> dict[str, object]:
    """Return the headers of the copy whose next run is that of *waybill*; *now* is Unix time."""
    hop = waybill.hop or remembered(delivery, waybill, now)
    return for_copy(delivery.headers) | _bounded(_carried(delivery, waybill, hop, now))


def parking_headers(
    delivery: Delivery, waybill: Waybill, outcome: Outcome, now: float, describe: Describe = str
) -> dict[str, object]:
    """Return the headers of the copy that is parked with *outcome*.

    Args:
        delivery: what is parked.
        waybill: of its last run.
        outcome: how that ended.
        now: Unix time.
        describe: puts the error of *outcome* into words.
    """
    failure = {
        names.HEADER_REASON: str(outcome.reason),
        names.HEADER_FAILED_AT: str(round(now * 1000)),
        names.HEADER_CONSUMER: delivery.consumer,
    }
    if outcome.error is not None:
        failure[names.HEADER_EXCEPTION_TYPE] = _writable(type(outcome.error).__qualname__, LONGEST_TEXT)
        failure[names.HEADER_EXCEPTION_MESSAGE] = _message(outcome.error, describe)
    known = {name: value for name, value in failure.items() if value}
    hop = remembered(delivery, waybill, now)
    return for_copy(delivery.headers) | _bounded(_carried(delivery, waybill, hop, now) | known)


def remembered(delivery: Delivery, waybill: Waybill, failed_at: float | None) -> Hop:
    """Return what is remembered of the original of *delivery*; *failed_at* is Unix time, None: put off."""
    hop = waybill.hop or _first_hop(delivery)
    first = hop.first_failed_at
    if first is None and failed_at is not None:
        first = round(failed_at * 1000)
    return replace(hop, first_failed_at=first, not_before=None)


def _carried(delivery: Delivery, waybill: Waybill, hop: Hop, now: float) -> dict[str, str]:
    facts = {
        names.HEADER_ATTEMPT: str(waybill.attempt),
        names.HEADER_ID: waybill.id,
        names.HEADER_QUEUE: delivery.queue,
        names.HEADER_CREATION: hop.creation,
        names.HEADER_ORIGIN_EXCHANGE: hop.exchange,
        names.HEADER_ORIGIN_ROUTING_KEY: hop.routing_key,
        names.HEADER_ORIGIN_USER_ID: hop.user_id,
        names.HEADER_ORIGIN_EXPIRATION: hop.expiration,
        names.HEADER_FIRST_FAILED_AT: None if hop.first_failed_at is None else str(hop.first_failed_at),
        names.HEADER_NOT_BEFORE: None if hop.not_before is None else str(hop.not_before),
        names.HEADER_DEFERRALS: str(hop.deferrals) if hop.deferrals else None,
    }
    return end_to_end_headers(waybill, now) | {
        name: value for name, value in facts.items() if value is not None
    }


def _first_hop(delivery: Delivery) -> Hop:
    return Hop(
        exchange=delivery.exchange,
        routing_key=delivery.routing_key,
        user_id=delivery.user_id,
        expiration=delivery.expiration,
        creation=text(delivery.headers.get(names.HEADER_TRACEPARENT)),
    )


def _message(error: BaseException, describe: Describe) -> str:
    try:
        return _writable(describe(error) or "", LONGEST_EXCEPTION_MESSAGE)
    except Exception:  # noqa: BLE001 - a user's code may raise anything; the message must be parked all the same
        return ""


def _bounded(facts: dict[str, str]) -> dict[str, str]:
    """Return those of *facts* for which there is room, the first ones first."""
    room, kept = LARGEST_FACTS, {}
    for name, value in facts.items():
        size = len(name) + len(value.encode(errors="backslashreplace"))
        if size <= room:
            room -= size
            kept[name] = value
    return kept


def _writable(words: str, limit: int) -> str:
    # A lone surrogate, as in the name of a file that is not UTF-8, cannot be written to the wire.
    return words[:limit].encode(errors="backslashreplace").decode()[:limit]
