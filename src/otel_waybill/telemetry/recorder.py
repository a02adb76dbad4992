"""Spans: started with all their attributes, current while the work runs, ended with what it came to."""

import contextlib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NoOpTracerProvider, Span, SpanContext, Status, StatusCode, Tracer

from otel_waybill import names
from otel_waybill.core.events import BreakerChanged, Event
from otel_waybill.guard import harmless
from otel_waybill.telemetry.semconv import Shape, Value, error_type

_ending = harmless("ending a span")


class Recorder:
    """What an instrumented client records with.

    Attributes:
        silent: whether nothing is recorded and no header written, as in a program that is not
            instrumented, or while instrumentation is suppressed.
        settle_spans: whether acks, nacks and rejects get spans of their own.
    """

    def __init__(self, tracer: Tracer, *, settle_spans: bool = True, silent: bool = False) -> None:
        """Record with *tracer*."""
        self._tracer = tracer
        self.settle_spans = settle_spans
        self.silent = silent

    def start(
        self,
        shape: Shape,
        attributes: Mapping[str, Value],
        context: Context,
        links: Iterable[SpanContext] = (),
    ) -> Span:
        """Start a span of *shape* under the span of *context*, linked to every valid context of *links*."""
        return self._tracer.start_span(
            shape.name,
            context=context,
            kind=shape.kind,
            attributes=attributes,
            links=[Link(linked) for linked in links if linked.is_valid],
        )

    def __call__(self, event: Event) -> None:
        """Put changes of a breaker on the span that is current when they happen; be a sink of events."""
        if isinstance(event, BreakerChanged):
            attributes = {
                names.BREAKER_NAME: event.breaker,
                names.BREAKER_PREVIOUS_STATE: event.before,
                names.BREAKER_STATE: event.after,
            }
            trace.get_current_span().add_event(names.EVENT_BREAKER, attributes)


SILENT = Recorder(NoOpTracerProvider().get_tracer(names.DISTRIBUTION), settle_spans=False, silent=True)
"""Records nothing."""


class Current:
    """A block in which a span is current; the span outlives it."""

    __slots__ = ("_context", "_token")

    def __init__(self, span: Span, context: Context) -> None:
        self._context = trace.set_span_in_context(span, context)

    def __enter__(self) -> Context:
        self._token = otel.attach(self._context)
        return self._context

    def __exit__(self, *_: object) -> None:
        otel.detach(self._token)


class Scope:
    """A block in which a span is current and with which it ends, failed if an exception leaves."""

    __slots__ = ("_current", "_span")

    def __init__(self, span: Span, context: Context) -> None:
        self._span = span
        self._current = Current(span, context)

    def __enter__(self) -> Self:
        self._current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._current.__exit__()
        finish(self._span, error)


def fail(span: Span, error: BaseException) -> None:
    """Mark *span* as failed by *error*, with the exception as a span event; Jaeger shows those."""
    if span.is_recording():
        span.set_attribute(names.ERROR_TYPE, error_type(error))
        # A user's __str__ may raise; the status matters more than its text.
        description = None
        with contextlib.suppress(Exception):
            description = str(error)
        span.set_status(Status(StatusCode.ERROR, description))
        span.record_exception(error)


def finish(span: Span, error: BaseException | None = None) -> None:
    """End *span*, failed if there is an *error*; a fault in here is ours and harms nobody."""
    with _ending:
        if error is not None:
            fail(span, error)
        span.end()
