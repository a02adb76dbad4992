"""The same telemetry by hand: what no instrumentation that emits these spans can go below.

The same SDK spans with as many attributes, the same injection into copied headers, extraction and link.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import context, propagate, trace
from opentelemetry.trace import Link, Span, SpanKind

_tracer = trace.get_tracer("floor")


def _attributes(operation: str, kind: str, queue: str) -> dict[str, str | int]:
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": queue,
        "messaging.rabbitmq.destination.routing_key": queue,
        "messaging.message.id": "4711",
        "server.address": "127.0.0.1",
        "server.port": 5672,
    }


@contextmanager
def publishing(queue: str, headers: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """Give the headers to publish with, inside a producer span."""
    attributes = _attributes("publish", "send", queue)
    with _tracer.start_as_current_span(f"publish {queue}", kind=SpanKind.PRODUCER, attributes=attributes):
        carrier = dict(headers)
        propagate.inject(carrier)
        yield carrier


@contextmanager
def processing(queue: str, headers: Mapping[str, object], tag: int) -> Iterator[None]:
    """Run a handler inside a consumer span."""
    extracted = propagate.extract({key: str(value) for key, value in headers.items()})
    attributes = _attributes("process", "process", queue)
    attributes["messaging.rabbitmq.message.delivery_tag"] = tag
    links = [Link(trace.get_current_span(extracted).get_span_context())]
    token = context.attach(extracted)
    try:
        with _tracer.start_as_current_span(
            f"process {queue}", kind=SpanKind.CONSUMER, attributes=attributes, links=links
        ):
            yield
    finally:
        context.detach(token)


def settling(queue: str, tag: int) -> AbstractContextManager[Span]:
    """Settle inside a client span."""
    attributes = _attributes("ack", "settle", queue)
    attributes["messaging.rabbitmq.message.delivery_tag"] = tag
    return _tracer.start_as_current_span(f"ack {queue}", kind=SpanKind.CLIENT, attributes=attributes)
