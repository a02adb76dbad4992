"""Another way than RabbitMQ: what is written is what is read, nothing is stale, and nothing is trusted."""

import time
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)

import otel_waybill as waybill
from otel_waybill import names
from otel_waybill.context import check_publish, running
from otel_waybill.core.belief import SKEW_TOLERANCE
from otel_waybill.core.events import ClockSkewed, Event, HeadersInvalid
from otel_waybill.core.waybill import Waybill
from otel_waybill.resilience import hub
from otel_waybill.telemetry import carrier

SPAN = trace.NonRecordingSpan(
    trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED))
)
SENT = "00-00000000000000000000000000000001-0000000000000002-01"


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Every test leaves the context as it found it."""
    before = otel.get_current()
    yield
    assert before == otel.get_current()


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What listeners are told."""
    told: list[Event] = []
    hub.add(told.append)
    yield told
    hub.remove(told.append)


def injected(mapping: dict[str, str] | None = None) -> dict[str, str]:
    """What is written into *mapping* here."""
    row = {} if mapping is None else mapping
    waybill.inject(row)
    return row


def span_id() -> int:
    """The span that is current."""
    return trace.get_current_span().get_span_context().span_id


def test_row_carries_what_a_message_would() -> None:
    """Trace, baggage and the end-to-end facts are written; the facts of a single message are not."""
    with trace.use_span(SPAN), waybill.request(id="123456", retry_limit=9):
        expected = {
            "traceparent": SENT,
            "baggage": "waybill.request-id=123456,waybill.retry-limit=9",
            names.HEADER_REQUEST_ID: "123456",
            names.HEADER_RETRY_LIMIT: "9",
        }
        assert expected == injected()
    assert {} == injected()


def test_nothing_stale_stays_and_nothing_else_goes() -> None:
    """An older waybill is replaced whatever the case of its names; what belongs to others is left alone."""
    row = {
        "Waybill-Request-Id": "old",
        "waybill-attempt": "3",
        "TraceParent": "old",
        "tracestate": "old=1",
        "Baggage": "old=1",
        "Content-Type": "application/json",
        "x-waybill": "theirs",
    }
    with waybill.request(id="123456"):
        injected(row)
    expected = {
        "Content-Type": "application/json",
        "x-waybill": "theirs",
        "baggage": "waybill.request-id=123456",
        names.HEADER_REQUEST_ID: "123456",
    }
    assert expected == row


def test_relay_continues_what_the_writer_began() -> None:
    """In the block trace, baggage and waybill are those of the row; around it everything is as before."""
    with (
        trace.use_span(SPAN),
        waybill.request(id="123456", deadline=30.0, retry_limit=9),
    ):
        written, row = waybill.current(), injected()
    with waybill.request(id="relay", deadline=0.001):
        block = waybill.extract(MappingProxyType(row))
        with block, block:  # it may be entered again
            read = waybill.current()
            assert ("123456", 9) == (read.request_id, read.retry_limit)
            assert written.deadline is not None
            assert read.deadline == pytest.approx(written.deadline, abs=0.001)
            assert 2 == span_id()
            left = waybill.remaining()
            assert left is not None
            assert 29 < left <= 30 + SKEW_TOLERANCE
            again = injected()
            assert row[names.HEADER_DEADLINE] == again[names.HEADER_DEADLINE]
            assert int(again[names.HEADER_TIMEOUT]) <= int(row[names.HEADER_TIMEOUT])
        assert "relay" == waybill.current().request_id
        assert 0 == span_id()


def test_deadline_of_a_row_refuses_nothing() -> None:
    """Time runs while a row waits, and what is late is sent all the same: its consumer decides."""
    row = {names.HEADER_DEADLINE: str(round((time.time() - 60) * 1000)), names.HEADER_TIMEOUT: "5000"}
    with waybill.deadline(30.0), waybill.extract(row):
        assert not running().enforced
        check_publish()
        left = waybill.remaining()
        assert left is not None
        assert left < 0
        with pytest.raises(waybill.DeadlineExceeded):
            waybill.check()


@pytest.mark.parametrize("row", [None, {}, {"Content-Type": "application/json"}])
def test_row_without_facts_has_none(row: dict[str, str] | None) -> None:
    """A request of the relay does not become that of its rows; a span that is around stays their parent."""
    with trace.use_span(SPAN), waybill.request(id="relay"), waybill.extract(row):
        assert Waybill() == waybill.current()
        assert {} == baggage.get_all()
        assert 2 == span_id()


def test_names_count_in_any_case() -> None:
    """HTTP spells names as it likes."""
    row = {"Traceparent": SENT, "BAGGAGE": "tenant=acme", "Waybill-Request-Id": "123456"}
    with waybill.extract(row):
        assert ("123456", 2) == (waybill.current().request_id, span_id())
        assert "acme" == baggage.get_baggage("tenant")


def test_baggage_alone_does() -> None:
    """A service that knows nothing of us passes the facts on in its baggage."""
    with waybill.extract({"baggage": "waybill.request-id=123456,waybill.retries=2"}):
        assert Waybill(request_id="123456", retries=2) == waybill.current()


class Shouting(TextMapPropagator):
    """Carries a trace under a name in another case, as that of AWS does."""

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        """Read the id of a span."""
        [word] = getter.get(carrier, "X-Trace") or ["0"]
        identity = trace.SpanContext(1, int(word), is_remote=True)
        return trace.set_span_in_context(trace.NonRecordingSpan(identity), context)

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        """Write the id of the span."""
        setter.set(carrier, "X-Trace", str(trace.get_current_span(context).get_span_context().span_id))

    @property
    def fields(self) -> set[str]:
        """The one header."""
        return {"X-Trace"}


def test_other_propagators_find_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that propagate by something else than W3C keep their trace."""
    monkeypatch.setattr(carrier, "get_global_textmap", Shouting)
    with trace.use_span(SPAN):
        row = injected({"x-trace": "stale"})
    assert {"X-Trace": "2"} == row
    with waybill.extract(row):
        assert 2 == span_id()


def test_what_makes_no_sense_is_told(events: list[Event]) -> None:
    """Whoever runs the program can see what arrives broken here, too."""
    ahead = round((time.time() + 60) * 1000)
    with waybill.extract(
        {names.HEADER_RETRIES: "many", names.HEADER_DEADLINE: ahead, names.HEADER_TIMEOUT: 0}
    ):
        pass
    invalid, skewed = events
    assert HeadersInvalid(queue=None, names=(names.HEADER_RETRIES,)) == invalid
    assert isinstance(skewed, ClockSkewed)
    assert 60 == round(skewed.seconds)


hostile = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.text())
)
known = st.sampled_from(["traceparent", "tracestate", "baggage", *names.END_TO_END_HEADERS])


@given(
    st.dictionaries(known | known.map(str.title) | st.text() | st.integers() | st.binary(), hostile),
)
def test_hostile_row_harms_nobody(row: dict[Any, Any]) -> None:
    """Whatever a row holds, its message can be sent, with facts that the next service understands."""
    with waybill.extract(row):
        fresh = injected()
        read = waybill.current()
    assert names.HEADER_ATTEMPT not in fresh
    with waybill.extract(fresh):
        assert read.request_id == waybill.current().request_id


@given(st.dictionaries(known | known.map(str.title) | st.text(), st.text()))
def test_any_row_can_be_written_to(row: dict[str, str]) -> None:
    """What was there of ours is gone, what was there of others is as it was."""
    others = {
        name: value
        for name, value in row.items()
        if name.lower() not in ("traceparent", "tracestate", "baggage")
        and not name.lower().startswith("waybill-")
    }
    with waybill.request(id="123456"):
        injected(row)
    ours = {"baggage": "waybill.request-id=123456", names.HEADER_REQUEST_ID: "123456"}
    assert others | ours == row
