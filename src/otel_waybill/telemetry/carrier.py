"""Context in and out of AMQP header tables, by whatever propagator the program has configured.

Nothing here knows what a waybill is. What arrives is hostile: a value that is not plain text of a sane
length is read as absent. What leaves is a copy: the caller's table is never written to.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.propagate import get_global_textmap
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_waybill.guard import harmless
from otel_waybill.names import HEADER_TRACEPARENT

# Bytes. W3C Baggage, the largest of these headers, may be dropped whole above it, and the propagator
# does, but logs all of it, which is nobody's business.
_LONGEST = 8192
# Characters. A traceparent has 55; up to here a quadratic pattern costs less than a millisecond.
_SHORT = 256

_extracting = harmless("extracting context from headers")
_injecting = harmless("injecting headers")


class HeaderGetter(Getter[Mapping[str, object]]):
    """Reads text out of a header table in which anything may stand under any name."""

    def get(self, carrier: Mapping[str, object], key: str) -> list[str] | None:
        """Return the one value of *key*, or None unless it is UTF-8 text or bytes of at most 8192 bytes."""
        value = carrier.get(key)
        if not isinstance(value, (str, bytes, bytearray)):
            return None
        try:
            text = value if isinstance(value, str) else value.decode()
            # Encoding is also the test for lone surrogates, which make the propagators raise.
            size = len(text) if text.isascii() else len(text.encode())
        except UnicodeError:
            return None
        if size > _LONGEST:
            return None
        # The patterns of the W3C propagators take quadratic time on runs of blanks, which nothing but an
        # attack contains: 130 ms for 8 KiB of them in one traceparent.
        return [text if len(text) <= _SHORT else " ".join(text.split())]

    def keys(self, carrier: Mapping[str, object]) -> list[str]:
        """Return the names in the table, without those that are not UTF-8: pika leaves them as bytes."""
        found: Iterable[object] = carrier
        return [key for key in found if isinstance(key, str)]


_getter = HeaderGetter()
_traceparent = TraceContextTextMapPropagator()


def creation(traceparent: object) -> SpanContext:
    """Return the span context that a W3C *traceparent* names; an invalid one for anything else."""
    context = _traceparent.extract({HEADER_TRACEPARENT: traceparent}, Context(), getter=_getter)
    return trace.get_current_span(context).get_span_context()


def forwarded(headers: Mapping[str, object] | None) -> tuple[SpanContext, ...]:
    """Return what made the message whose *headers* are being published again, if they tell.

    The conventions want the publish of a message that has a creation context already to link to it
    (messaging-spans.md, "Context propagation").
    """
    if not headers or HEADER_TRACEPARENT not in headers:
        return ()
    return (creation(headers[HEADER_TRACEPARENT]),)


def extract(headers: Mapping[str, object] | None, context: Context | None = None) -> Context:
    """Return *context* with the trace and baggage of *headers* put into it; never raises.

    Args:
        headers: the table of a message, as it arrived.
        context: what to extract into, the current context by default, so that what is ambient (baggage,
            suppressed instrumentation) stays where the message says nothing else.
    """
    if context is None:
        context = get_current()
    if headers:
        with _extracting:
            context = get_global_textmap().extract(headers, context, getter=_getter)
    return context


def injected(headers: Mapping[str, object] | None, context: Context | None = None) -> dict[str, object]:
    """Return a copy of *headers* that carries *context*, the current one by default, and no older one.

    The fields of the propagator are deleted first, by exact name, as its interface demands: a forwarded
    message would otherwise keep the ``tracestate`` and ``baggage`` of another trace.
    """
    copy = dict(headers) if headers else {}
    with _injecting:
        propagator = get_global_textmap()
        if copy:
            for field in _fields(propagator):
                copy.pop(field, None)
        propagator.inject(copy, context)
    return copy


def fields() -> frozenset[str]:
    """Return the names of the headers that the configured propagator writes."""
    return _fields(get_global_textmap())


@lru_cache(maxsize=4)  # a composite collects its fields anew at every look; a program has one propagator
def _fields(propagator: TextMapPropagator) -> frozenset[str]:
    return frozenset(propagator.fields)
