"""aio-pika's objects as facts, and the facts as aio-pika's objects again."""

from typing import TYPE_CHECKING, cast

import aiormq
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import AMQPException, ChannelInvalidStateError
from aio_pika.message import IncomingMessage
from aio_pika.queue import Queue
from opentelemetry import baggage, trace
from opentelemetry.context import Context, get_current
from pamqp.commands import Basic

from otel_waybill.clients.shared.ledger import Owned
from otel_waybill.core.delivery import Delivery
from otel_waybill.core.headers import for_handler, number
from otel_waybill.core.waybill import Waybill
from otel_waybill.telemetry.semconv import Endpoint

if TYPE_CHECKING:
    from pamqp.common import FieldTable

AnyChannel = AbstractChannel | aiormq.abc.AbstractChannel
"""What queues and exchanges call their channel: aio-pika's since 9.1, the protocol's before."""

# What a call meets on a channel that is gone: there is nothing to add, the broker hands out again what it has
# no ack for.
TOO_LATE = (AMQPException, ChannelInvalidStateError, ConnectionError, RuntimeError)

_PORTS = {"amqp": 5672, "amqps": 5671}

_endpoints: Owned[Endpoint | None] = Owned("endpoint", lambda: None)


def endpoint(channel: aiormq.abc.AbstractChannel) -> Endpoint | None:
    """Return the broker that *channel* talks to, or None when its connection does not tell."""
    connection = channel.connection
    known = _endpoints.seen(connection)
    if known is None:
        url = connection.url
        if not url.host:
            return None
        known = Endpoint(url.host, url.port or _PORTS.get(url.scheme))
        _endpoints.put(connection, known)
    return known


def endpoint_of(channel: AnyChannel) -> Endpoint | None:
    """Return the broker that aio-pika's *channel* talks to, or None while it is not connected."""
    if isinstance(channel, aiormq.abc.AbstractChannel):
        return endpoint(channel)
    # The public way to the underlying channel waits for a reconnect, which a publish does by itself.
    underlay = getattr(channel, "_channel", None)
    return None if underlay is None else endpoint(underlay.channel)


async def underlay_of(channel: AnyChannel) -> aiormq.abc.AbstractChannel:
    """Return the protocol's channel behind *channel*, which a queue of aio-pika 9.0 has as its own."""
    if isinstance(channel, aiormq.abc.AbstractChannel):
        return channel
    if hasattr(channel, "get_underlay_channel"):
        return await channel.get_underlay_channel()
    underlay: aiormq.abc.AbstractChannel = channel.channel  # type: ignore[attr-defined]  # as in 9.0
    return underlay


def channel_of(message: IncomingMessage) -> aiormq.abc.AbstractChannel:
    """Return the channel of *message*, closed or not; the public property raises when it is."""
    channel: aiormq.abc.AbstractChannel = message._IncomingMessage__channel  # type: ignore[attr-defined]  # private name
    return channel


def temporary(queue: Queue) -> bool:
    """Return whether *queue* goes with its consumer or its connection."""
    return bool(queue.exclusive or queue.auto_delete)


def delivery(message: IncomingMessage, queue: str | None) -> Delivery:
    """Return the facts of one delivery from *queue*."""
    return Delivery(
        queue=queue,
        exchange=message.exchange or "",
        routing_key=message.routing_key or "",
        headers=message.headers or {},
        message_id=message.message_id,
        user_id=message.user_id,
        # As text again: aio-pika has made seconds of it.
        expiration=None if message.expiration is None else message.properties.expiration,
        redelivered=bool(message.redelivered),
        consumer=message.consumer_tag,
    )


def ambient() -> Context:
    """Return the context that a delivery may extend: the current one without its span and baggage.

    aiormq runs consumers in the context in which their channel was opened, whose span has nothing to do
    with the message and may have ended long ago.
    """
    context = get_current()
    return trace.set_span_in_context(trace.INVALID_SPAN, baggage.clear(context)) if context else context


def original(message: IncomingMessage, waybill: Waybill) -> dict[str, object]:
    """Return the attributes of *message* that differ from those it had before the ladder."""
    hop = waybill.hop
    if hop is None:
        return {}
    return {
        "exchange": hop.exchange,
        "routing_key": hop.routing_key,
        "headers": for_handler(message.headers or {}),
        "user_id": hop.user_id,
        "expiration": _seconds(hop.expiration),
        # aiormq makes up a message id when there is none; the identity tells which.
        "message_id": message.message_id if message.message_id == waybill.id else None,
    }


def copied(message: IncomingMessage, headers: dict[str, object]) -> Basic.Properties:
    """Return the properties of a copy: persistent, with *headers*, without what only the original may say."""
    properties = message.properties
    properties.headers = cast("FieldTable", {key: _writable(value) for key, value in headers.items()})
    properties.delivery_mode = 2
    # An expiration would end the wait early; a user id that is not the connection's closes the channel.
    properties.expiration = properties.user_id = None
    return properties


def encoded_size(properties: Basic.Properties) -> int:
    """Return the octets that *properties* take on the wire."""
    return len(properties.marshal())


def _writable(value: object) -> object:
    """Return *value* as pamqp writes it: text that is not UTF-8 is read as bytes, which it then refuses."""
    if isinstance(value, bytes):
        return bytearray(value)
    if isinstance(value, list):
        return [_writable(each) for each in value]
    if isinstance(value, dict):
        return {key: _writable(each) for key, each in value.items()}
    return value


def _seconds(expiration: str | None) -> float | None:
    milliseconds = number(expiration)
    return None if milliseconds is None else milliseconds / 1000
