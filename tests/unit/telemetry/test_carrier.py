"""Context in and out of header tables: hostile on the way in, a clean copy on the way out."""

import datetime as dt
import decimal
import time
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context, attach, detach, get_current, set_value
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_waybill import guard
from otel_waybill.guard import harmless
from otel_waybill.telemetry.carrier import HeaderGetter, extract, fields, injected

TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
SPAN_ID = 0xB7AD6B7169203331
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True, scope="module")
def loud() -> Iterator[None]:
    """Let a fault of our own fail the test instead of being swallowed."""
    before = harmless.loud
    guard.reraise(on=True)
    yield
    guard.reraise(on=before)


@pytest.fixture(name="propagator")
def _propagator() -> Iterator[None]:
    """Put the configured propagator back after the test."""
    before = propagate.get_global_textmap()
    yield
    propagate.set_global_textmap(before)


def span_of(context: Context) -> trace.SpanContext:
    """Return what the context says about the trace."""
    return trace.get_current_span(context).get_span_context()


def traced() -> Context:
    """Return a context with a trace, its state and one baggage member."""
    span = trace.SpanContext(
        TRACE_ID, SPAN_ID, is_remote=False, trace_flags=trace.TraceFlags(1), trace_state=None
    )
    context = trace.set_span_in_context(trace.NonRecordingSpan(span), Context())
    return baggage.set_baggage("user", "ada", context)


@pytest.mark.parametrize("kind", [str, str.encode, lambda text: bytearray(text.encode())])
def test_a_trace_arrives_as_text_or_as_bytes(kind: object) -> None:
    """Clients give text, and bytes where another language wrote them as such."""
    assert callable(kind)
    context = extract({"traceparent": kind(TRACEPARENT), "baggage": kind("user=ada")})

    assert (TRACE_ID, SPAN_ID) == (span_of(context).trace_id, span_of(context).span_id)
    assert {"user": "ada"} == baggage.get_all(context)


def test_what_is_ambient_stays_where_the_message_says_nothing_else() -> None:
    """Ambient baggage and suppression survive the extraction; the message wins where both speak."""
    ambient = baggage.set_baggage("tenant", "a", set_value("suppress_instrumentation", value=True))
    token = attach(baggage.set_baggage("user", "nobody", ambient))
    try:
        context = extract({"traceparent": TRACEPARENT, "baggage": "user=ada"})
    finally:
        detach(token)

    assert {"tenant": "a", "user": "ada"} == baggage.get_all(context)
    assert True is context["suppress_instrumentation"]
    assert TRACE_ID == span_of(context).trace_id


@pytest.mark.parametrize("headers", [None, {}, {"x-delay": 5}])
def test_a_message_without_a_trace_changes_nothing(headers: Mapping[str, object] | None) -> None:
    """No headers and other headers leave the context as it is."""
    context = traced()

    assert context == extract(headers, context)
    assert get_current() == extract(headers)


hostile = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))  # lone surrogates too
    | st.binary()
    | st.binary().map(bytearray)
    | st.decimals()
    | st.datetimes()
    | st.sampled_from([TRACEPARENT, TRACEPARENT.encode(), "user=ada", " " * 9000, "a" * 9000, "=,;%"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["traceparent", "tracestate", "baggage", "x-death"]) | st.text() | st.binary(),
        hostile,
    )
)
@pytest.mark.filterwarnings("ignore")
def test_no_header_table_can_stop_a_consumer(headers: dict[str, object]) -> None:
    """Whatever a stranger puts into the table, extraction and injection do not raise."""
    ambient = baggage.set_baggage("tenant", "a", Context())

    assert "a" == baggage.get_baggage("tenant", extract(headers, ambient)) or "baggage" in headers
    left = injected(headers, traced())
    assert TRACEPARENT == left["traceparent"]
    assert "user=ada" == left["baggage"]


@pytest.mark.parametrize("value", [12, True, None, 1.5, b"\xff\xfe", "\ud800", [TRACEPARENT], {"a": 1}])
@pytest.mark.parametrize("key", ["traceparent", "tracestate", "baggage"])
def test_a_header_that_is_not_text_is_absent_and_hides_no_other(key: str, value: object) -> None:
    """One bad header costs that header: a trace with unreadable baggage is still that trace."""
    context = extract({"traceparent": TRACEPARENT, "baggage": "user=ada", key: value}, Context())

    assert (0 if key == "traceparent" else TRACE_ID) == span_of(context).trace_id
    assert ({} if key == "baggage" else {"user": "ada"}) == baggage.get_all(context)


def test_odd_types_of_the_wire_are_absent() -> None:
    """Timestamps and decimals are legal in a header table."""
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

    assert Context() == extract({"traceparent": moment, "baggage": decimal.Decimal("1.5")}, Context())


@pytest.mark.parametrize(
    ("expected", "value"),
    [
        (True, "a" * 8192),
        (False, "a" * 8193),
        (False, b"a" * 8193),
        (True, "é" * 4096),
        (False, "é" * 4097),
    ],
)
def test_a_header_above_8192_bytes_is_absent(expected: bool, value: str | bytes) -> None:  # noqa: FBT001 - a table
    """It would be dropped anyway, but logged in full first."""
    assert expected is (HeaderGetter().get({"baggage": value}, "baggage") is not None)


def test_an_oversized_baggage_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Contents of messages do not end up in logs."""
    extract({"traceparent": TRACEPARENT, "baggage": "secret=" + "4111" * 3000})

    assert "4111" not in caplog.text


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": "01" + TRACEPARENT[2:] + "-" + " " * 8000 + "\nx"},
        {"traceparent": TRACEPARENT, "baggage": "a=" + " \t" * 4000 + "x"},
    ],
)
def test_blanks_cannot_keep_a_consumer_busy(headers: dict[str, str]) -> None:
    """A header made to be slow to match takes well under a millisecond, not more than a hundred."""
    fastest = 1.0
    for _ in range(5):
        start = time.perf_counter()
        extract(headers)
        fastest = min(fastest, time.perf_counter() - start)

    assert fastest < 0.005


def test_the_getter_lists_the_names_that_are_there() -> None:
    """Propagators that enumerate headers find them; a name that is not text is left out."""
    table: dict[str, object] = {"uber-trace-id": 1, "baggage": None}
    table[b"\xff"] = 1  # type: ignore[index]  # what pika makes of a name that is not UTF-8

    assert ["uber-trace-id", "baggage"] == HeaderGetter().keys(table)


def test_the_callers_headers_are_never_written_to() -> None:
    """A dict that is shared between messages, or belongs to a received one, stays as it was."""
    shared: dict[str, object] = {"x-delay": 5, "baggage": "old=1"}
    result = injected(shared, traced())

    assert {"x-delay": 5, "baggage": "old=1"} == shared
    assert {"x-delay": 5, "traceparent": TRACEPARENT, "baggage": "user=ada"} == result


def test_nothing_of_an_older_trace_is_left() -> None:
    """A forwarded message does not keep the tracestate and baggage of where it came from."""
    old = {"traceparent": "old", "tracestate": "a=1", "baggage": "old=1", "x": 1}

    assert {"x": 1} == injected(old, Context())


def test_headers_of_another_case_are_other_headers() -> None:
    """AMQP names are case-sensitive, so only the exact names are ours to delete."""
    assert {"Traceparent": "theirs", "BAGGAGE": "theirs"} == injected(
        {"Traceparent": "theirs", "BAGGAGE": "theirs"}, Context()
    )


def test_a_message_without_headers_gets_them() -> None:
    """``headers=None`` is how most messages are published."""
    assert {"traceparent": TRACEPARENT, "baggage": "user=ada"} == injected(None, traced())


def test_the_current_context_is_injected_by_default() -> None:
    """Without an argument it is the context of the running code."""
    token = attach(traced())
    try:
        assert TRACEPARENT == injected({})["traceparent"]
    finally:
        detach(token)


class Custom(TextMapPropagator):
    """Stands for a propagator that the program configures."""

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        """Keep the one value."""
        return set_value("custom", getter.get(carrier, "x-custom"), context)

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        """Write the one value."""
        del context
        setter.set(carrier, "x-custom", "new")

    @property
    def fields(self) -> set[str]:
        """Return the name of the one header."""
        return {"x-custom"}


class Broken(Custom):
    """Stands for a propagator that fails."""

    def extract(self, *_: object, **__: object) -> Context:
        """Fail."""
        raise ValueError

    def inject(self, *_: object, **__: object) -> None:
        """Fail."""
        raise ValueError


@pytest.mark.usefixtures("propagator")
def test_the_configured_propagator_is_asked_at_each_call() -> None:
    """A program may configure it after we were imported, and again later."""
    assert frozenset({"traceparent", "tracestate", "baggage"}) == fields()
    propagate.set_global_textmap(CompositePropagator([Custom(), TraceContextTextMapPropagator()]))

    assert frozenset({"traceparent", "tracestate", "x-custom"}) == fields()
    assert ["old"] == extract({"x-custom": "old"})["custom"]
    assert {"x-custom": "new", "traceparent": TRACEPARENT, "baggage": "kept=1"} == injected(
        {"x-custom": "old", "tracestate": "a=1", "baggage": "kept=1"}, traced()
    )


@pytest.mark.usefixtures("propagator")
def test_no_propagator_means_no_change() -> None:
    """With OTEL_PROPAGATORS=none what the program wrote itself goes out as it is."""
    propagate.set_global_textmap(CompositePropagator([]))

    assert {"traceparent": "by hand"} == injected({"traceparent": "by hand"}, traced())
    assert Context() == extract({"traceparent": TRACEPARENT}, Context())


@pytest.mark.usefixtures("propagator")
def test_a_broken_propagator_does_not_stop_a_message() -> None:
    """The message goes out and comes in without a trace."""
    propagate.set_global_textmap(Broken())
    guard.reraise(on=False)
    try:
        assert {"x": 1} == injected({"x": 1, "x-custom": "stale"}, traced())
        assert Context() == extract({"x": 1}, Context())
    finally:
        guard.reraise(on=True)
