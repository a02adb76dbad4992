"""Spans, as scenarios look at them."""

from typing import cast

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import SpanContext, SpanKind, Tracer

import otel_waybill as waybill
from otel_waybill import Hooks, Policy, Settings


class Telemetry:
    """Where the spans of one test go."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def instrument(
        self,
        policies: dict[str, Policy] | None = None,
        settings: Settings | None = None,
        hooks: Hooks | None = None,
    ) -> "Telemetry":
        """Instrument all clients, with everything going here."""
        waybill.instrument(tracer_provider=self.provider, policies=policies, settings=settings, hooks=hooks)
        return self

    def tracer(self) -> Tracer:
        """Return a tracer for the program's own spans."""
        return self.provider.get_tracer("program")

    def spans(self, prefix: str = "") -> list[ReadableSpan]:
        """Return the spans that have ended and whose name begins with *prefix*, by their start."""
        spans = [span for span in self._exporter.get_finished_spans() if span.name.startswith(prefix)]
        return sorted(spans, key=lambda span: span.start_time or 0)

    def only(self, prefix: str) -> ReadableSpan:
        """Return the one span whose name begins with *prefix*."""
        (span,) = self.spans(prefix)
        return span

    def publishes(self) -> list[ReadableSpan]:
        """Return the publish spans."""
        return [span for span in self.spans() if span.kind is SpanKind.PRODUCER]

    def processes(self) -> list[ReadableSpan]:
        """Return the process spans."""
        return [span for span in self.spans() if span.kind is SpanKind.CONSUMER]

    def traces(self) -> set[int]:
        """Return the ids of all traces."""
        return {identity(span).trace_id for span in self.spans()}


def identity(span: ReadableSpan) -> SpanContext:
    """Return the context of *span*."""
    context = cast("SpanContext | None", span.context)
    assert context is not None
    return context


def parent(span: ReadableSpan) -> int | None:
    """Return the id of the parent of *span*."""
    return None if span.parent is None else span.parent.span_id


def links(span: ReadableSpan) -> list[int]:
    """Return the ids of the spans that *span* is linked to."""
    return [link.context.span_id for link in span.links]


def facts(span: ReadableSpan) -> dict[str, object]:
    """Return the attributes of *span*."""
    return dict(span.attributes or {})


def here() -> SpanContext:
    """Return the span context that is current, perhaps an invalid one."""
    return trace.get_current_span().get_span_context()
