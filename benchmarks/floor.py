"""The same telemetry by hand, as OpenTelemetry's documentation writes it: what instrumenting has to cost.

The same SDK spans with the same attributes, parents and links, the same measurements, the same injection
into copied headers and the same extraction.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.trace import Link, SpanKind

_tracer = trace.get_tracer("floor")
_meter = metrics.get_meter("floor")
_operation = _meter.create_histogram("messaging.client.operation.duration", "s")
_process = _meter.create_histogram("messaging.process.duration", "s")
_sent = _meter.create_counter("messaging.client.sent.messages", "{message}")
_consumed = _meter.create_counter("messaging.client.consumed.messages", "{message}")

Attributes = dict[str, str | int]


def _measured(operation: str, queue: str) -> Attributes:
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": operation,
        "messaging.destination.name": queue,
        "server.address": "127.0.0.1",
        "server.port": 5672,
    }


@contextmanager
def publishing(queue: str, headers: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """Give the headers to publish with, inside a producer span."""
    started = time.perf_counter()
    measured = _measured("publish", queue)
    timed = measured | {"messaging.operation.type": "send"}
    attributes = timed | {
        "messaging.rabbitmq.destination.routing_key": queue,
        "messaging.message.id": "4711",
    }
    with _tracer.start_as_current_span(f"publish {queue}", kind=SpanKind.PRODUCER, attributes=attributes):
        carrier = dict(headers)
        propagate.inject(carrier)
        yield carrier
    _operation.record(time.perf_counter() - started, timed)
    _sent.add(1, measured)


@contextmanager
def processing(queue: str, headers: Mapping[str, object], tag: int) -> Iterator[None]:
    """Run a handler inside a consumer span."""
    started = time.perf_counter()
    extracted = propagate.extract({key: str(value) for key, value in headers.items()})
    measured = _measured("process", queue)
    attributes = measured | {
        "messaging.operation.type": "process",
        "messaging.rabbitmq.destination.routing_key": queue,
        "messaging.message.id": "4711",
        "messaging.rabbitmq.message.delivery_tag": tag,
    }
    links = [Link(trace.get_current_span(extracted).get_span_context())]
    token = context.attach(extracted)
    try:
        with _tracer.start_as_current_span(
            f"process {queue}", kind=SpanKind.CONSUMER, attributes=attributes, links=links
        ):
            yield
    finally:
        context.detach(token)
    _process.record(time.perf_counter() - started, measured)
    _consumed.add(1, measured)


@contextmanager
def settling(queue: str, tag: int) -> Iterator[None]:
    """Settle inside a client span."""
    started = time.perf_counter()
    timed = _measured("ack", queue) | {"messaging.operation.type": "settle"}
    attributes = timed | {"messaging.rabbitmq.message.delivery_tag": tag}
    with _tracer.start_as_current_span(f"ack {queue}", kind=SpanKind.CLIENT, attributes=attributes):
        yield
    _operation.record(time.perf_counter() - started, timed)
