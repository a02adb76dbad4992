"""What the tests of pika's doors share: an instrumented client, and what it recorded."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pika
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import Tracer
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import BasicProperties

from otel_waybill import guard
from otel_waybill.clients.pika.instrumentor import PikaInstrumentor
from otel_waybill.patching import passthrough

Unique = Callable[[str], str]
"""Makes names that no other test has."""


class Recorded:
    """The spans and metrics of one test."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.provider = TracerProvider(sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader])

    @property
    def tracer(self) -> Tracer:
        """A tracer for spans of the program."""
        return self.provider.get_tracer("program")

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """What has ended, in that order."""
        return self._exporter.get_finished_spans()

    @property
    def operations(self) -> list[str]:
        """The operations of all spans of ours that have ended, in that order."""
        return [
            str((span.attributes or {})["messaging.operation.name"])
            for span in self.spans
            if "messaging.system" in (span.attributes or {})
        ]

    def of(self, operation: str) -> list[ReadableSpan]:
        """The spans of one operation."""
        return [span for span in self.spans if attributes(span).get("messaging.operation.name") == operation]

    def one(self, operation: str) -> ReadableSpan:
        """The only span of an operation."""
        (span,) = self.of(operation)
        return span

    def count(self, metric: str) -> float:
        """The sum of all data points of a counter, or the number of values of a histogram."""
        data = self._reader.get_metrics_data()
        points = [
            point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for each in scope.metrics
            if each.name == metric
            for point in each.data.data_points
        ]
        return sum(getattr(point, "value", getattr(point, "count", 0)) for point in points)


@contextmanager
def recording(sampler: Sampler | None = None, **options: object) -> Iterator[Recorded]:
    """Instrument pika inside the block, with *options* of its instrumentor; our own faults are loud there."""
    recorded = Recorded(sampler)
    guard.reraise(on=True)
    PikaInstrumentor().instrument(
        tracer_provider=recorded.provider, meter_provider=recorded.meters, **options
    )
    try:
        yield recorded
    finally:
        PikaInstrumentor().uninstrument()
        guard.reraise(on=False)


@contextmanager
def opened(url: str) -> Iterator[BlockingChannel]:
    """A channel of a connection of its own."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


def declared(channel: BlockingChannel, unique: Unique, **options: object) -> str:
    """The name of a new queue that goes with the connection."""
    name = unique("q")
    channel.queue_declare(name, exclusive=True, **options)  # type: ignore[arg-type]  # see pika
    return name


def send_bare(
    channel: BlockingChannel, queue: str, count: int = 1, headers: Mapping[str, object] | None = None
) -> None:
    """Publish as a program does that is not instrumented."""
    for number in range(count):
        with passthrough():
            properties = BasicProperties(headers=dict(headers) if headers else None)
            channel.basic_publish("", queue, str(number).encode(), properties)


def parked(url: str, queue: str) -> int:
    """Return how many messages of *queue* are parked."""
    with opened(url) as channel:
        count: int = channel.queue_declare(f"{queue}.parked", passive=True).method.message_count
        return count


def attributes(span: ReadableSpan) -> Mapping[str, object]:
    """The attributes of a span, none if there are none."""
    return span.attributes or {}


def identity(span: ReadableSpan) -> int:
    """The id of a span that has ended."""
    assert span.context is not None
    return int(span.context.span_id)
