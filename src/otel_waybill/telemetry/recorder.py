"""Records operations: a span with all its attributes from the start, and its metrics at the end."""

import time
from collections.abc import Iterable, Mapping
from functools import lru_cache

from opentelemetry import trace
from opentelemetry._logs import Logger
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    NoOpTracerProvider,
    SpanContext,
    Tracer,
)

from otel_waybill import names
from otel_waybill.config.settings import Settings
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
    publish_destination,
    shape,
)
from otel_waybill.telemetry.work import Work

_starting = harmless("starting a span")
_hooking = harmless("calling a hook")
_redacting = harmless("redacting a header")
_asking = harmless("asking for a destination template")
_TYPES = ("send", "receive", "process", "settle")
_REMEMBERED = 1024  # entries; more routing keys are in nobody's steady state, and a miss costs microseconds


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
        self._shape = lru_cache(_REMEMBERED)(self._build_shape)
        self._template = lru_cache(_REMEMBERED)(self._ask_for_template)

    def start(  # noqa: PLR0913 - what one operation is, each part by its name
        self,
        operation: Operation,
        message: Message,
        endpoint: Endpoint | None,
        context: Context,
        *,
        links: Iterable[SpanContext] = (),
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
            more: attributes of the caller's own.
            since: ``time.perf_counter()`` at which it began, if that was before now.
        """
        exchange, routing_key, queue, properties, _, delivery_tag, temporary = message
        known = self._shape(operation, exchange, routing_key, queue, endpoint, temporary)
        attributes = known.attributes(
            message_id=getattr(properties, "message_id", None),
            conversation_id=getattr(properties, "correlation_id", None),
            delivery_tag=delivery_tag,
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

    def _build_shape(  # noqa: PLR0913, PLR0917 - positional, because that is what is remembered by
        self,
        operation: Operation,
        exchange: str,
        routing_key: str,
        queue: str | None,
        endpoint: Endpoint | None,
        temporary: bool,  # noqa: FBT001 - see above
    ) -> Shape:
        if operation.type == "settle" and not (exchange or routing_key or queue):
            return shape(operation, None, endpoint, legacy=self.settings.legacy_attributes)
        if operation is PUBLISH:
            destination = publish_destination(exchange, routing_key)
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
            names.BREAKER_TRIGGER: event.trigger,
        }
        trace.get_current_span().add_event(names.EVENT_BREAKER, attributes)


def _moment(since: float) -> int:
    """Return Unix time in nanoseconds at ``time.perf_counter()`` *since*."""
    return time.time_ns() - round((time.perf_counter() - since) * 1e9)


def _text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes | bytearray) else str(value)
