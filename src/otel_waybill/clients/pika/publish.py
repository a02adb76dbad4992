"""Publishing on pika: a producer span, and a copy of the properties that carries trace and waybill."""

from collections.abc import Callable

from opentelemetry import context as otel
from pika.spec import BasicProperties

from otel_waybill.clients.pika import live
from otel_waybill.clients.pika.read import AnyChannel, duplicate, endpoint, underlying
from otel_waybill.clients.shared.departure import carrying
from otel_waybill.context import Running, check_publish, expiration_in
from otel_waybill.guard import harmless
from otel_waybill.patching import argument, passthrough, replaced
from otel_waybill.telemetry.carrier import forwarded
from otel_waybill.telemetry.hooks import Message
from otel_waybill.telemetry.recorder import Recorder
from otel_waybill.telemetry.semconv import PUBLISH
from otel_waybill.telemetry.work import Work

Call = tuple[tuple[object, ...], dict[str, object]]

_tracing = harmless("tracing a publish")


def basic_publish(
    wrapped: Callable[..., None], channel: AnyChannel, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """Stand in for `BlockingChannel.basic_publish`, which waits for the confirm and raises what it says.

    Raises:
        DeadlineExceeded: inside a request block whose deadline has passed; nothing is published.
    """
    work, (args, kwargs) = started(channel, args, kwargs)
    if work is None:
        return wrapped(*args, **kwargs)
    # BlockingChannel publishes through Channel: one call, one span.
    with work, passthrough():
        return wrapped(*args, **kwargs)


def started(
    channel: AnyChannel, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[Work | None, Call]:
    """Start to record a publish; return that, or None when silent, and the arguments to publish with.

    Raises:
        DeadlineExceeded: inside a request block whose deadline has passed.
    """
    state = check_publish()
    if state.expires:
        args, kwargs = _expiring(state, args, kwargs)
    recorder = live.recorder()
    if not recorder.silent:
        with _tracing:
            return _traced(recorder, channel, args, kwargs)
    return None, (args, kwargs)


def _expiring(state: Running, args: tuple[object, ...], kwargs: dict[str, object]) -> Call:
    """Return the arguments with properties that expire with the deadline of *state*."""
    properties = duplicate(argument(args, kwargs, 3, "properties") or BasicProperties())
    properties.expiration = expiration_in(state, properties.expiration)
    return replaced(args, kwargs, 3, "properties", properties)


def _traced(
    recorder: Recorder, channel: AnyChannel, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[Work, Call]:
    properties = argument(args, kwargs, 3, "properties") or BasicProperties()
    message = Message(
        exchange=argument(args, kwargs, 0, "exchange"),
        routing_key=argument(args, kwargs, 1, "routing_key"),
        properties=properties,
        body=argument(args, kwargs, 2, "body"),
    )
    where, links = endpoint(underlying(channel)), forwarded(properties.headers)
    work = recorder.start(PUBLISH, message, where, otel.get_current(), links=links)
    outgoing = duplicate(properties)
    outgoing.headers = carrying(work, properties.headers)
    return work, replaced(args, kwargs, 3, "properties", outgoing)
