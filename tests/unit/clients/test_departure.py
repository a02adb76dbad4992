"""What leaves with a message: what is true now, and nothing stale."""

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pika.spec import BasicProperties

from otel_waybill import names
from otel_waybill.clients.shared.departure import carrying, departing, fitting, traceparent
from otel_waybill.config.settings import Settings
from otel_waybill.context import Running, entered
from otel_waybill.core.waybill import Waybill
from otel_waybill.telemetry.hooks import Message
from otel_waybill.telemetry.recorder import Recorder
from otel_waybill.telemetry.semconv import PUBLISH

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


FRAME = 131_072
DISPENSABLE = (names.HEADER_EXCEPTION_MESSAGE, names.HEADER_BAGGAGE, names.HEADER_TRACESTATE)


def octets(headers: dict[str, object]) -> int:
    """How large a message with these *headers* is, by the lengths that its values name."""
    return sum(size for size in headers.values() if isinstance(size, int))


@pytest.mark.parametrize(
    ("expected", "sizes"),
    [
        ({"tenant", *DISPENSABLE}, (1, 1, 1, 1)),
        ({"tenant", *DISPENSABLE}, (FRAME - 4096 - 3, 1, 1, 1)),
        ({"tenant", *DISPENSABLE[1:]}, (FRAME - 4096 - 2, 1, 1, 1)),
        ({"tenant", *DISPENSABLE[1:]}, (1, FRAME, 1, 1)),
        ({"tenant", *DISPENSABLE[2:]}, (1, 1, FRAME, 1)),
        ({"tenant"}, (1, 1, 1, FRAME)),
        (None, (FRAME, 1, 1, 1)),
    ],
)
def test_copy_that_does_not_fit_into_a_frame_drops_what_it_can(
    expected: set[str] | None, sizes: tuple[int, ...]
) -> None:
    """First the text of the exception goes, then baggage, then tracestate; what is the user's stays."""
    headers: dict[str, object] = dict(zip(("tenant", *DISPENSABLE), sizes, strict=True))
    before = dict(headers)
    fit = fitting(headers, octets, FRAME)
    assert expected == (None if fit is None else set(fit))
    assert before == headers


def test_connection_without_a_limit_takes_everything() -> None:
    """0 is AMQP's word for no limit."""
    headers: dict[str, object] = {"tenant": 10 * FRAME}
    assert headers is fitting(headers, octets, 0)


def test_a_few_words_are_not_measured() -> None:
    """To encode a message takes longer than all the rest of a copy, and mostly the answer is known."""

    def measured(_: dict[str, object]) -> int:
        pytest.fail("it was")

    headers: dict[str, object] = {"tenant": "acme", names.HEADER_BAGGAGE: "a=1"}
    assert headers is fitting(headers, measured, FRAME)


SHORT_STRINGS = (
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
)
WIDEST = dict.fromkeys(SHORT_STRINGS, "x" * 255)
WORDS = st.integers(0, 20_000).map(lambda length: "x" * length)


@given(
    st.dictionaries(st.text("abc-", min_size=1), st.one_of(st.text(), WORDS)),
    st.integers(4096, 40_000),
)
def test_what_is_not_measured_fits_all_the_same(headers: dict[str, object], frame_max: int) -> None:
    """Beside the longest properties that there can be, as a client really encodes them."""

    def encoded(tried: dict[str, object]) -> int:
        properties = BasicProperties(headers=tried, delivery_mode=2, priority=9, timestamp=2**40, **WIDEST)
        return sum(map(len, properties.encode()))

    fit = fitting(headers, encoded, frame_max)
    assert fit is None or encoded(fit) <= frame_max - 4096


@given(
    st.dictionaries(st.sampled_from(["tenant", "traceparent", *DISPENSABLE]), st.integers(0, 2 * FRAME)),
    st.integers(4096, FRAME),
)
def test_whatever_leaves_fits(headers: dict[str, object], frame_max: int) -> None:
    """A copy that is sent never closes the connection, and loses nothing that it could have kept."""
    fit = fitting(headers, octets, frame_max)
    needed = {name: size for name, size in headers.items() if name not in DISPENSABLE}
    if fit is None:
        assert octets(needed) > frame_max - 4096
    else:
        assert octets(fit) <= frame_max - 4096
        assert needed.items() <= fit.items() <= headers.items()


def test_publish_whose_headers_cannot_be_made_is_over() -> None:
    """A program that passes something else than a table as headers leaves no span that never ends."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    recorder = Recorder(provider.get_tracer("test"), Settings())
    work = recorder.start(PUBLISH, Message(routing_key="orders"), None, Context())
    wrong: Any = ["not", "a", "table"]

    with pytest.raises(AttributeError):
        carrying(work, wrong)

    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert "AttributeError" == span.attributes[names.ERROR_TYPE]
