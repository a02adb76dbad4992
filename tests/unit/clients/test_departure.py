"""What leaves with a message: what is true now, and nothing stale."""

from types import MappingProxyType
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context

from otel_waybill import names
from otel_waybill.clients.shared.departure import departing, traceparent
from otel_waybill.context import Running, entered
from otel_waybill.core.waybill import Waybill

SPAN = trace.NonRecordingSpan(
    trace.SpanContext(
        0x0AF7651916CD43DD8448EB211C80319C,
        0xB7AD6B7169203331,
        is_remote=False,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )
)
SENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_forwarded_message_carries_no_attempt_of_another() -> None:
    """Whoever forwards the headers it got sends the user's, the running waybill and the running trace."""
    got: dict[str, Any] = {
        "tenant": "acme",
        "traceparent": SENT.replace("b7", "c8"),
        "tracestate": "stale=1",
        "baggage": "stale=1",
        names.HEADER_ATTEMPT: "3",
        names.HEADER_RETRY_LIMIT: "9",
    }
    running = Running(waybill=Waybill(request_id="123456", retries=2, attempt=3))
    context = entered(running, trace.set_span_in_context(SPAN, Context()))
    expected = {
        "tenant": "acme",
        "traceparent": SENT,
        "baggage": "waybill.request-id=123456,waybill.retries=2",
        names.HEADER_REQUEST_ID: "123456",
        names.HEADER_RETRIES: "2",
    }
    assert expected == departing(MappingProxyType(got), context)


@pytest.mark.parametrize("headers", [None, {}])
def test_message_of_nobody_carries_nothing(headers: dict[str, object] | None) -> None:
    """Outside of any trace and request a message leaves as it was."""
    assert {} == departing(headers, Context())


def test_trace_of_a_span_is_written_as_w3c_wants_it() -> None:
    """A copy can name the attempt before it; where there is no trace there is nothing to name."""
    assert SENT == traceparent(SPAN)
    assert traceparent(trace.INVALID_SPAN) is None
