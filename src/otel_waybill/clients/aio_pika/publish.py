"""Publishing on aio-pika: a producer span, and a copy of the message that carries trace and waybill."""

from collections.abc import Awaitable, Callable
from copy import copy
from typing import TYPE_CHECKING, cast

from aio_pika.exchange import Exchange
from opentelemetry import context as otel

from otel_waybill.clients.aio_pika import live
from otel_waybill.clients.aio_pika.read import endpoint_of
from otel_waybill.clients.shared.departure import departing
from otel_waybill.context import check_publish
from otel_waybill.guard import harmless
from otel_waybill.patching import argument, passthrough, replaced
from otel_waybill.telemetry.recorder import Current, Recorder, Scope
from otel_waybill.telemetry.semconv import PUBLISH, publish_destination, shape

if TYPE_CHECKING:
    from aio_pika.abc import HeadersType
    from aio_pika.message import Message

_Call = tuple[tuple[object, ...], dict[str, object]]

_tracing = harmless("tracing a publish")


async def publish(
    wrapped: Callable[..., Awaitable[object]],
    exchange: Exchange,
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> object:
    """Stand in for `Exchange.publish`.

    Raises:
        DeadlineExceeded: inside a request block whose deadline has passed; nothing is published.
    """
    check_publish()
    recorder, scope = live.recorder(), None
    if not recorder.silent:
        with _tracing:
            scope, (args, kwargs) = _traced(recorder, exchange, args, kwargs)
    if scope is None:
        return await wrapped(*args, **kwargs)
    with scope, passthrough():
        return await wrapped(*args, **kwargs)


def _traced(
    recorder: Recorder, exchange: Exchange, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[Scope, _Call]:
    message: Message = argument(args, kwargs, 0, "message")
    destination = publish_destination(exchange.name, argument(args, kwargs, 1, "routing_key"))
    publishing = shape(PUBLISH, destination, endpoint_of(exchange.channel))
    attributes = publishing.attributes(message_id=message.message_id, conversation_id=message.correlation_id)
    context = otel.get_current()
    span = recorder.start(publishing, attributes, context)
    with Current(span, context) as sending:
        headers = departing(message.headers, sending)
    outgoing = copy(message)
    outgoing.headers = cast("HeadersType", headers)
    return Scope(span, context), replaced(args, kwargs, 0, "message", outgoing)
