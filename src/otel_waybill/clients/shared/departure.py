"""What leaves with a message: a copy of its headers that carries the running waybill and trace."""

import sys
import time
from collections.abc import Callable, Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from otel_waybill import names
from otel_waybill.context import running
from otel_waybill.core.headers import without_ours
from otel_waybill.core.waybill import end_to_end_headers
from otel_waybill.telemetry import carrier
from otel_waybill.telemetry.work import Work


def departing(headers: Mapping[str, object] | None, context: Context) -> dict[str, object]:
    """Return *headers* for a message sent in *context*: nothing stale of ours, and what is true now."""
    waybill = running(context).waybill
    return carrier.injected(without_ours(headers) | end_to_end_headers(waybill, time.time()), context)


def carrying(
    work: Work, headers: Mapping[str, object] | None, context: Context | None = None
) -> dict[str, object]:
    """Return *headers* for a message whose publish is *work*; without any, that is over and failed.

    Args:
        work: the publish, started.
        headers: of the message.
        context: what it is sent in, by default what the publish was started in.
    """
    try:
        sending = work.context if context is None else trace.set_span_in_context(work.span, context)
        return departing(headers, sending)
    except BaseException as error:
        work.finish(error)
        raise


def traceparent(span: Span) -> str | None:
    """Return the W3C ``traceparent`` of *span*, or None if it is not valid (w3.org/TR/trace-context)."""
    identity = span.get_span_context()
    if not identity.is_valid:
        return None
    flags = f"{identity.trace_flags:02x}"
    return f"00-{trace.format_trace_id(identity.trace_id)}-{trace.format_span_id(identity.span_id)}-{flags}"


_MARGIN = 4096
_PROPERTIES = 4096  # octets of all properties but the headers, at most: they are short strings and numbers
_EACH = 6  # octets of a text header besides its name and value: the length of each, and a type
_DISPENSABLE = (names.HEADER_EXCEPTION_MESSAGE, names.HEADER_BAGGAGE, names.HEADER_TRACESTATE)


def fitting(
    headers: dict[str, object], size: Callable[[dict[str, object]], int], frame_max: int
) -> dict[str, object] | None:
    """Return *headers*, shortened if need be, so that they fit into one frame; None if they cannot.

    AMQP never splits the header of a message, and a frame that is too large closes the whole connection
    (501, FRAME_ERROR).

    Args:
        headers: of a copy.
        size: octets that a message with such headers takes in its header frame.
        frame_max: octets that client and broker have agreed on; 0 is no limit.
    """
    limit = frame_max - _MARGIN if frame_max else sys.maxsize
    if _plainly_within(limit - _PROPERTIES, headers) or size(headers) <= limit:
        return headers
    for name in _DISPENSABLE:
        headers = {key: value for key, value in headers.items() if key != name}
        if size(headers) <= limit:
            return headers
    return None


def _plainly_within(room: int, headers: dict[str, object]) -> bool:
    """Return whether *headers* are only text, so little that nobody has to encode it to know its size."""
    for name, value in headers.items():
        if not (isinstance(value, str) and value.isascii() and name.isascii()):
            return False
        room -= len(name) + len(value) + _EACH
    return room >= 0
