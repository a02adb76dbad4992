"""Records operations: a span with all its attributes from the start, and its metrics at the end."""

import contextlib
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import TracebackType
from typing import Self

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry._logs import Logger, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    NoOpTracerProvider,
    Span,
    SpanContext,
    Status,
    StatusCode,
    Tracer,
)

from otel_waybill import names
from otel_waybill.config import Settings
from otel_waybill.core.events import BreakerChanged, Event
from otel_waybill.guard import harmless
from otel_waybill.telemetry.hooks import REDACTED, Hooks, Message
from otel_waybill.telemetry.meters import Meters
from otel_waybill.telemetry.semconv import (
    PUBLISH,
    Attribute,
    Destination,
    Endpoint,
    Operation,
    Shape,
    consume_destination,
    error_type,
    publish_destination,
    shape,
)

_starting = harmless("starting a span")
_ending = harmless("ending a span")
_failing = harmless("recording an exception")
_hooking = harmless("calling a hook")
_redacting = harmless("redacting a header")
_asking = harmless("asking for a destination template")
_TYPES = ("send", "receive", "process", "settle")
_REMEMBERED = 1024


class Recorder:
    """What an instrumented client records with.

    Attributes:
        silent: whether nothing is recorded and no header written, as in a program that is not
            instrumented, or while instrumentation is suppressed.
        settings: what is chosen about telemetry.
    """

    def __init__(  # noqa: PLR0913 - the signals, each by its name
        self,
        tracer: Tracer,
        settings: Settings,
        *,
        meters: Meters | None = None,
        logger: Logger | None = None,
        hooks: Hooks | None = None,
        silent: bool = False,
    ) -> None:
        """Record with *tracer*, and with *meters* and *logger* where there are any."""
        self.silent = silent
        self.settings = settings
        self.meters = meters
        self.logger = logger
        self._tracer = tracer
        self._hooks = hooks or Hooks()
        self._hook_of = {kind: self._hooks.for_operation(kind) for kind in _TYPES}
        self._captured = tuple(name.lower() for name in settings.capture_headers)
        self._template = lru_cache(_REMEMBERED)(self._ask_for_template)

    def start(  # noqa: PLR0913 - what one operation is, each part by its name
        self,
        operation: Operation,
        message: Message,
        endpoint: Endpoint | None,
        context: Context,
        *,
        links: Iterable[SpanContext] = (),
        temporary: bool = False,
        more: Mapping[str, Attribute] | None = None,
        since: float | None = None,
    ) -> "Work":
        """Start to record *operation* under the span of *context*.

        Args:
            operation: what is done.
            message: with what.
            endpoint: at which broker.
            context: whose span becomes the parent.
            links: span contexts to link; invalid ones are left out.
            temporary: whether the queue goes with its consumer.
            more: attributes of the caller's own.
            since: ``time.perf_counter()`` at which it began, if that was before now.
        """
        known = self._shape(operation, message, endpoint, temporary=temporary)
        properties = message.properties
        attributes = known.attributes(
            message_id=getattr(properties, "message_id", None),
            conversation_id=getattr(properties, "correlation_id", None),
            delivery_tag=message.delivery_tag,
        )
        if self.settings.legacy_attributes and names.MESSAGING_CONVERSATION_ID in attributes:
            attributes[names.LEGACY_CONVERSATION_ID] = attributes[names.MESSAGING_CONVERSATION_ID]
        if self._captured:
            attributes |= self._headers(getattr(properties, "headers", None))
        if more:
            attributes |= more
        with _starting:
            span = self._tracer.start_span(
                known.name,
                context=context,
                kind=operation.kind,
                attributes=attributes,
                links=[Link(linked) for linked in links if linked.is_valid],
                start_time=None if since is None else _moment(since),
            )
            hook = self._hook_of[operation.type]
            if hook is not None and span.is_recording():
                with _hooking:
                    hook(span, message)
            return Work(self, span, known, context, since)
        # A sampler of the program's has a fault: what it does stays in the trace in which it was.
        around = trace.get_current_span(context).get_span_context()
        return Work(self, NonRecordingSpan(around), known, context, since)

    def _shape(
        self, operation: Operation, message: Message, endpoint: Endpoint | None, *, temporary: bool
    ) -> Shape:
        exchange, routing_key, queue, *_ = message
        destination: Destination | None
        if operation is PUBLISH:
            destination = publish_destination(exchange, routing_key)
        elif operation.type == "settle" and not (exchange or routing_key or queue):
            return shape(operation, None, endpoint, legacy=self.settings.legacy_attributes)
        else:
            destination = consume_destination(exchange, routing_key, queue)
        if temporary or self._hooks.destination_template is not None:
            destination = self._template(destination._replace(temporary=temporary))
        return shape(operation, destination, endpoint, legacy=self.settings.legacy_attributes)

    def _ask_for_template(self, destination: Destination) -> Destination:
        template = None
        if self._hooks.destination_template is not None:
            with _asking:
                template = self._hooks.destination_template(destination.name)
        return destination._replace(template=template or None)

    def _headers(self, headers: object) -> dict[str, Attribute]:
        if not isinstance(headers, Mapping):
            return {}
        lowered = {key.lower(): value for key, value in headers.items() if isinstance(key, str)}
        return {
            names.CAPTURED_HEADER_PREFIX + name: (self._redacted(name, lowered[name]),)
            for name in self._captured
            if name in lowered
        }

    def _redacted(self, name: str, value: object) -> str:
        with _redacting:
            return self._hooks.redact(name, _text(value))
        return REDACTED


class Work:
    """One operation that is being recorded; as a block it is current inside and finished at the end."""

    __slots__ = ("_context", "_error", "_recorder", "_shape", "_started", "_token", "counted", "span")

    _token: object

    def __init__(
        self, recorder: Recorder, span: Span, known: Shape, context: Context, since: float | None
    ) -> None:
        self.span = span
        self.counted = True
        """Whether a delivery counts as consumed here, and not somewhere else already."""
        self._recorder = recorder
        self._shape = known
        self._context = context
        self._error: BaseException | None = None
        self._started = time.perf_counter() if since is None else since

    def __enter__(self) -> Self:
        self._token = otel.attach(trace.set_span_in_context(self.span, self._context))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        otel.detach(self._token)  # type: ignore[arg-type]  # the type of tokens is private
        self.finish(error)

    def current(self, context: Context | None = None) -> "Current":
        """Return a block in which the span is current, in *context* or in the one it was started in."""
        return Current(self.span, self._context if context is None else context)

    def fail(self, error: BaseException) -> None:
        """Mark the operation as failed by *error*; its first error is its error, others stand beside it."""
        if error is self._error:
            return
        first = self._error is None
        if first:
            self._error = error
        with _failing:
            if first and self.span.is_recording():
                self.span.set_attribute(names.ERROR_TYPE, error_type(error))
                self.span.set_status(Status(StatusCode.ERROR, _described(error)))
            self._record_exception(error)

    def finish(self, error: BaseException | None = None) -> None:
        """End it, failed if there is an *error*; a fault in here is ours and harms nobody."""
        if error is not None and self._error is None:
            self.fail(error)
        with _ending:
            seconds = time.perf_counter() - self._started
            self.span.end()
            if self._recorder.meters is not None:
                failure = None if self._error is None else error_type(self._error)
                self._recorder.meters.record(self._shape, seconds, failure, counted=self.counted)

    def _record_exception(self, error: BaseException) -> None:
        chosen, logger = self._recorder.settings.exceptions, self._recorder.logger
        if chosen != "logs" and _described(error) is not None:
            self.span.record_exception(error)
        if chosen != "events" and logger is not None:
            kind = self._shape.operation.type
            severity = SeverityNumber.ERROR if kind == "process" else SeverityNumber.WARN
            logger.emit(
                context=trace.set_span_in_context(self.span, self._context),
                severity_number=severity,
                event_name=f"messaging.{kind}.exception",
                exception=error,
            )


class Current:
    """A block in which a span is current; the span outlives it."""

    __slots__ = ("_context", "_token")

    _token: object

    def __init__(self, span: Span, context: Context) -> None:
        self._context = trace.set_span_in_context(span, context)

    def __enter__(self) -> Context:
        self._token = otel.attach(self._context)
        return self._context

    def __exit__(self, *_: object) -> None:
        otel.detach(self._token)  # type: ignore[arg-type]  # the type of tokens is private


SILENT = Recorder(
    NoOpTracerProvider().get_tracer(names.DISTRIBUTION), Settings(settle_spans=False), silent=True
)
"""Records nothing."""


def breaker_on_span(event: Event) -> None:
    """Put changes of a breaker on the span that is current when they happen; a sink of events."""
    if isinstance(event, BreakerChanged):
        attributes = {
            names.BREAKER_NAME: event.breaker,
            names.BREAKER_PREVIOUS_STATE: event.before,
            names.BREAKER_STATE: event.after,
        }
        trace.get_current_span().add_event(names.EVENT_BREAKER, attributes)


def _moment(since: float) -> int:
    """Return Unix time in nanoseconds at ``time.perf_counter()`` *since*."""
    return time.time_ns() - round((time.perf_counter() - since) * 1e9)


def _described(error: BaseException) -> str | None:
    # A user's __str__ may raise; the status matters more than its text.
    with contextlib.suppress(Exception):
        return str(error)
    return None


def _text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes | bytearray) else str(value)
