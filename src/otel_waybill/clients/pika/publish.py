"""Publishing on pika: a producer span, and a copy of the properties that carries trace and waybill."""

from collections.abc import Callable
from copy import copy

from opentelemetry import context as otel
from pika.spec import BasicProperties

from otel_waybill.clients.pika import live
from otel_waybill.clients.pika.read import AnyChannel, endpoint, underlying
from otel_waybill.clients.shared.departure import departing
from otel_waybill.context import check_publish
from otel_waybill.guard import harmless
from otel_waybill.patching import argument, passthrough, replaced
from otel_waybill.telemetry.recorder import Current, Recorder, Scope
from otel_waybill.telemetry.semconv import PUBLISH, publish_destination, shape

_Call = tuple[tuple[object, ...], dict[str, object]]

_tracing = harmless("tracing a publish")


def basic_publish(
    wrapped: Callable[..., None], channel: AnyChannel, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """Stand in for `basic_publish` of `BlockingChannel`, which sees the confirm, and of `Channel`.

    Raises:
        DeadlineExceeded: inside a request block whose deadline has passed; nothing is published.
    """
    check_publish()
    recorder, scope = live.recorder(), None
    if not recorder.silent:
        with _tracing:
            scope, (args, kwargs) = _traced(recorder, channel, args, kwargs)
    if scope is None:
        return wrapped(*args, **kwargs)
    # BlockingChannel publishes through Channel: one call, one span.
    with scope, passthrough():
        return wrapped(*args, **kwargs)


def _traced(
    recorder: Recorder, channel: AnyChannel, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[Scope, _Call]:
    exchange, routing_key = argument(args, kwargs, 0, "exchange"), argument(args, kwargs, 1, "routing_key")
    properties = argument(args, kwargs, 3, "properties") or BasicProperties()
    publishing = shape(PUBLISH, publish_destination(exchange, routing_key), endpoint(underlying(channel)))
    attributes = publishing.attributes(
        message_id=properties.message_id, conversation_id=properties.correlation_id
    )
    context = otel.get_current()
    span = recorder.start(publishing, attributes, context)
    with Current(span, context) as sending:
        headers = departing(properties.headers, sending)
    outgoing = copy(properties)
    outgoing.headers = headers
    return Scope(span, context), replaced(args, kwargs, 3, "properties", outgoing)
