"""What a span or a metric of a messaging operation is called and carries: facts in, names and values out.

The rules are those of the OpenTelemetry semantic conventions 1.44, ``docs/messaging/rabbitmq.md`` and
``messaging-spans.md``. Everything here is pure; what does not depend on the message is a `Shape`, which is
worth remembering.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from opentelemetry.trace import SpanKind

from otel_waybill import names
from otel_waybill.core.anonymity import is_anonymous

Value: TypeAlias = str | int | bool
Attribute: TypeAlias = Value | tuple[str, ...]

_SYSTEM: Final = "rabbitmq"
_DEFAULT_EXCHANGE: Final = "amq.default"
# Entries; more routing keys than this are in nobody's steady state, and a miss costs microseconds.
_REMEMBERED: Final = 1024


class Endpoint(NamedTuple):
    """The broker at the other end of a connection; make it once, when the connection is known.

    Attributes:
        address: the host that the program asked for, ``server.address``.
        port: its port, 1 to 65535.
        peer_address: the address that the socket is connected to, ``network.peer.address``.
        peer_port: its port.
    """

    address: str
    port: int | None = None
    peer_address: str | None = None
    peer_port: int | None = None


class Destination(NamedTuple):
    """Where a message goes or comes from, as telemetry names it.

    Attributes:
        name: ``messaging.destination.name``.
        routing_key: of the message; empty when there is none.
        anonymous: whether a part of the name was generated, so that it says nothing and has no bound.
        temporary: whether the queue goes with its consumer; only where the client tells.
        template: what the program calls all destinations of this kind, see ``Hooks``.
    """

    name: str
    routing_key: str
    anonymous: bool
    temporary: bool = False
    template: str | None = None

    @property
    def shown(self) -> str | None:
        """What spans and metrics are grouped by: nothing that has no bound."""
        if self.template is not None:
            return self.template
        return None if self.anonymous or self.temporary else self.name


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One thing done with a message: ``messaging.operation.name`` and ``.type``, and the kind of its span.

    There are those below and no others, so each is equal to itself only.
    """

    name: str
    type: str
    kind: SpanKind


PUBLISH: Final = Operation("publish", "send", SpanKind.PRODUCER)
RECEIVE: Final = Operation("receive", "receive", SpanKind.CLIENT)
PROCESS: Final = Operation("process", "process", SpanKind.CONSUMER)
ACK: Final = Operation("ack", "settle", SpanKind.CLIENT)
NACK: Final = Operation("nack", "settle", SpanKind.CLIENT)
REJECT: Final = Operation("reject", "settle", SpanKind.CLIENT)


class Shape(NamedTuple):
    """What all spans of one operation on one destination of one broker have in common.

    Attributes:
        operation: what is done.
        name: of the span.
        fixed: attributes that are the same for every message; see ``attributes``.
        measured: attributes for metrics, low in cardinality: no generated destination, no message.
        timed: the same for the histogram of this operation's duration.
    """

    operation: Operation
    name: str
    fixed: MappingProxyType[str, Attribute]
    measured: MappingProxyType[str, Value]
    timed: MappingProxyType[str, Value]

    def attributes(
        self,
        *,
        message_id: object = None,
        conversation_id: object = None,
        delivery_tag: int | None = None,
        batch: int | None = None,
    ) -> dict[str, Attribute]:
        """Return a new dict of attributes, ready for the start of a span, where samplers see them.

        Args:
            message_id: the property; anything but non-empty text is left out, here and below.
            conversation_id: the property ``correlation_id``.
            delivery_tag: of a delivery or a settlement.
            batch: how many messages, only where the call could take several (``multiple``).
        """
        attributes = self.fixed.copy()
        if message_id and isinstance(message_id, str):
            attributes[names.MESSAGING_MESSAGE_ID] = message_id
        if conversation_id and isinstance(conversation_id, str):
            attributes[names.MESSAGING_CONVERSATION_ID] = conversation_id
        if delivery_tag is not None:
            attributes[names.MESSAGING_DELIVERY_TAG] = delivery_tag
        if batch is not None:
            attributes[names.MESSAGING_BATCH_COUNT] = batch
        return attributes


def shape(
    operation: Operation,
    destination: Destination | None = None,
    endpoint: Endpoint | None = None,
    *,
    legacy: bool = False,
) -> Shape:
    """Return name, kind and lasting attributes of the spans of *operation*.

    Args:
        operation: one of the constants of this module.
        destination: None when it is not known, as for the ack of a delivery nobody saw.
        endpoint: None when the connection does not tell.
        legacy: whether to add the keys of the conventions before 1.17.
    """
    address, port, peer_address, peer_port = endpoint or (None, None, None, None)
    # Processing is the program's own work: no network is involved.
    local = operation.type == "process"
    common = {
        names.MESSAGING_SYSTEM: _SYSTEM,
        names.MESSAGING_OPERATION_NAME: operation.name,
        names.SERVER_ADDRESS: address,
        names.SERVER_PORT: port,
    }
    fixed = common | {
        names.MESSAGING_OPERATION_TYPE: operation.type,
        names.NETWORK_PEER_ADDRESS: None if local else peer_address,
        names.NETWORK_PEER_PORT: None if local else peer_port,
    }
    measured: dict[str, Value | None] = dict(common)
    if destination is not None:
        fixed |= _described(destination, settles=operation.type == "settle")
        key = (
            names.MESSAGING_DESTINATION_TEMPLATE if destination.template else names.MESSAGING_DESTINATION_NAME
        )
        measured[key] = destination.shown
    if legacy:
        fixed |= _legacy(operation, destination, endpoint)
    timed = measured if local else measured | {names.MESSAGING_OPERATION_TYPE: operation.type}
    name = _span_name(operation, destination, endpoint)
    return Shape(operation, name, _known(fixed), _known(measured), _known(timed))


def publish_destination(exchange: str, routing_key: str) -> Destination:
    """Return where a publish goes: ``{exchange}:{routing key}``, or whichever is not empty."""
    return _destination(exchange, routing_key, "")


def consume_destination(exchange: str, routing_key: str, queue: str | None) -> Destination:
    """Return where a delivery comes from: ``{exchange}:{routing key}:{queue}`` without what is empty.

    The queue is left out when it is the routing key, so that a message sent through the default exchange
    has the same destination on both sides.

    Args:
        exchange: of the delivery.
        routing_key: of the delivery.
        queue: what was consumed from; None when that is not known.
    """
    return _destination(exchange, routing_key, queue or "")


def error_type(error: BaseException) -> str:
    """Return ``error.type`` of an operation that ended with *error*: the name of its class.

    Cancellation keeps its well-known module, because ``concurrent.futures`` has a class of that name too.
    """
    kind = type(error)
    return "asyncio.CancelledError" if kind is asyncio.CancelledError else kind.__qualname__


def _destination(*parts: str) -> Destination:
    exchange, routing_key, queue = map(_text, parts)
    if queue == routing_key:
        queue = ""
    name = ":".join(filter(None, (exchange, routing_key, queue))) or _DEFAULT_EXCHANGE
    return Destination(name, routing_key, anonymous=is_anonymous(routing_key) or is_anonymous(queue))


def _text(part: str | bytes) -> str:
    """Return *part* as text: pika hands out names that are not UTF-8 as bytes."""
    return part.decode(errors="backslashreplace") if isinstance(part, bytes) else part


def _known(attributes: Mapping[str, Value | None]) -> MappingProxyType[str, Value]:
    """Return *attributes* without those that are None; read-only, because it is remembered and shared."""
    return MappingProxyType({key: value for key, value in attributes.items() if value is not None})


def _described(destination: Destination, *, settles: bool) -> dict[str, Value | None]:
    """Return the attributes that describe *destination*; a settlement has fewer of them."""
    described: dict[str, Value | None] = {
        names.MESSAGING_DESTINATION_NAME: destination.name,
        names.MESSAGING_DESTINATION_TEMPLATE: destination.template,
    }
    if not settles:
        described[names.MESSAGING_DESTINATION_ANONYMOUS] = destination.anonymous or None
        described[names.MESSAGING_DESTINATION_TEMPORARY] = destination.temporary or None
        described[names.MESSAGING_ROUTING_KEY] = destination.routing_key or None
    return described


def _legacy(
    operation: Operation, destination: Destination | None, endpoint: Endpoint | None
) -> dict[str, Value | None]:
    temporary = destination is not None and (destination.anonymous or destination.temporary)
    return {
        names.LEGACY_OPERATION: operation.name,
        names.LEGACY_DESTINATION: None if destination is None else destination.name,
        names.LEGACY_TEMPORARY: temporary or None,
        names.LEGACY_PEER_NAME: None if endpoint is None else endpoint.address,
        names.LEGACY_PEER_PORT: None if endpoint is None else endpoint.port,
    }


def _span_name(operation: Operation, destination: Destination | None, endpoint: Endpoint | None) -> str:
    """Return ``{operation} {destination}``, without what has no bound: names are what people group by."""
    if destination is not None:
        return operation.name if destination.shown is None else f"{operation.name} {destination.shown}"
    if endpoint is None:
        return operation.name
    host = endpoint.address if endpoint.port is None else f"{endpoint.address}:{endpoint.port}"
    return f"{operation.name} {host}"
