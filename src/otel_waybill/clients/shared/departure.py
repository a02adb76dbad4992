"""What leaves with a message: a copy of its headers that carries the running waybill and trace."""

import time
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from otel_waybill.context import running
from otel_waybill.core.headers import without_ours
from otel_waybill.core.waybill import end_to_end_headers
from otel_waybill.telemetry import carrier


def departing(headers: Mapping[str, object] | None, context: Context) -> dict[str, object]:
    """Return *headers* for a message sent in *context*: nothing stale of ours, and what is true now."""
    waybill = running(context).waybill
    return carrier.injected(without_ours(headers) | end_to_end_headers(waybill, time.time()), context)


def traceparent(span: Span) -> str | None:
    """Return the W3C ``traceparent`` of *span*, or None if it is not valid (w3.org/TR/trace-context)."""
    identity = span.get_span_context()
    if not identity.is_valid:
        return None
    flags = f"{identity.trace_flags:02x}"
    return f"00-{trace.format_trace_id(identity.trace_id)}-{trace.format_span_id(identity.span_id)}-{flags}"
