"""What arrives with a message: decoded without trust, continued without leaks."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace import NoOpTracerProvider

from otel_waybill import guard, names
from otel_waybill.clients.shared.arrival import arrive, execution
from otel_waybill.config.settings import Parent, Settings
from otel_waybill.context import Running, entered, running
from otel_waybill.core.belief import Belief
from otel_waybill.core.delivery import Delivery
from otel_waybill.core.events import ClockSkewed, Event, HeadersInvalid
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.verdicts import Republish, Returned, Run, Settled
from otel_waybill.core.waybill import Hop, Waybill
from otel_waybill.resilience import hub
from otel_waybill.resilience.guarded import Terms
from otel_waybill.telemetry import carrier
from otel_waybill.telemetry.recorder import SILENT, Recorder

SENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CREATED = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
TRIED = "00-0af7651916cd43dd8448eb211c80319c-5fb397be34d26b51-01"
AROUND = trace.SpanContext(7, 8, is_remote=False)
RECORDER = Recorder(NoOpTracerProvider().get_tracer("test"), Settings())

hostile = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.text())
)


def arriving(headers: dict[str, Any], exchange: str = "shop") -> Delivery:
    """A delivery with these *headers*."""
    return Delivery(queue="orders", exchange=exchange, routing_key="order.created", headers=headers)


def around() -> Context:
    """A context in which a consumer might be running."""
    ambient = trace.set_span_in_context(trace.NonRecordingSpan(AROUND), Context())
    return entered(Running(waybill=Waybill(request_id="of the consumer")), ambient)


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What listeners are told."""
    told: list[Event] = []
    hub.add(told.append)
    yield told
    hub.remove(told.append)


def spans(links: tuple[trace.SpanContext, ...]) -> list[str]:
    """The span ids of *links*, without the invalid ones, which no span shows."""
    return [trace.format_span_id(link.span_id) for link in links if link.is_valid]


def parent(context: Context) -> str | None:
    """The id of the span that is current in *context*."""
    identity = trace.get_current_span(context).get_span_context()
    return trace.format_span_id(identity.span_id) if identity.is_valid else None


def test_message_continues_its_own_trace(events: list[Event]) -> None:
    """Trace, baggage and waybill are those that the message brought; what is around becomes a link."""
    headers = {
        "traceparent": SENT,
        "baggage": "tenant=acme,waybill.retries=2",
        names.HEADER_REQUEST_ID: "123456",
    }
    arrival = arrive(arriving(headers), around(), RECORDER)
    assert Waybill(request_id="123456", retries=2) == arrival.waybill
    assert "b7ad6b7169203331" == trace.format_span_id(
        trace.get_current_span(arrival.context).get_span_context().span_id
    )
    assert "acme" == baggage.get_baggage("tenant", arrival.context)
    assert ["b7ad6b7169203331", "0000000000000008"] == spans(arrival.links)
    assert [] == events


MESSAGE, CONSUMER = "b7ad6b7169203331", "0000000000000008"


@pytest.mark.parametrize(
    ("choice", "brought", "around_it", "expected", "links"),
    [
        ("message", True, True, MESSAGE, [MESSAGE, CONSUMER]),
        ("message", True, False, MESSAGE, [MESSAGE]),
        ("message", False, True, CONSUMER, []),
        ("message", False, False, None, []),
        ("ambient", True, True, CONSUMER, [MESSAGE]),
        ("ambient", True, False, MESSAGE, [MESSAGE]),
        ("ambient", False, True, CONSUMER, []),
        ("ambient", False, False, None, []),
        ("link", True, True, CONSUMER, [MESSAGE]),
        ("link", True, False, None, [MESSAGE]),
        ("link", False, True, CONSUMER, []),
        ("link", False, False, None, []),
    ],
)
def test_program_chooses_whose_child_a_delivery_is(
    choice: Parent, links: list[str], expected: str | None, *, brought: bool, around_it: bool
) -> None:
    """The publish is linked in every case, what is around unless it is the parent; baggage always arrives."""
    recorder = Recorder(NoOpTracerProvider().get_tracer("test"), Settings(parent=choice))
    headers: dict[str, Any] = {"baggage": "tenant=acme"} | ({"traceparent": SENT} if brought else {})
    arrival = arrive(arriving(headers), around() if around_it else Context(), recorder)
    assert (expected, links) == (parent(arrival.context), spans(arrival.links))
    assert ([MESSAGE] if brought else []) == spans(arrival.origin)
    assert "acme" == baggage.get_baggage("tenant", arrival.context)


def test_broken_trace_is_none() -> None:
    """A traceparent that is nonsense makes no link, least of all to what happens to run around."""
    arrival = arrive(arriving({"traceparent": "00-nonsense"}), around(), RECORDER)
    assert (CONSUMER, (), ()) == (parent(arrival.context), arrival.origin, arrival.links)


class Spelled(TextMapPropagator):
    """Carries a trace in a format of its own, as B3 does."""

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        """Read the id of a span."""
        [word] = getter.get(carrier, "b3") or [""]
        identity = trace.SpanContext(1, int(word, 16), is_remote=True)
        return trace.set_span_in_context(trace.NonRecordingSpan(identity), context)

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        """Write nothing."""

    @property
    def fields(self) -> set[str]:
        """The one header."""
        return {"b3"}


def test_trace_in_another_format_is_linked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that propagate by something else than W3C see the publish as well."""
    monkeypatch.setattr(carrier, "get_global_textmap", Spelled)
    arrival = arrive(arriving({"b3": MESSAGE}), around(), RECORDER)
    assert (MESSAGE, [MESSAGE, CONSUMER]) == (parent(arrival.context), spans(arrival.links))


def test_consumer_does_not_rub_off() -> None:
    """A message that brought nothing has nothing, whatever runs around its consumer."""
    arrival = arrive(arriving({}), around(), RECORDER)
    assert (Waybill(), ()) == (arrival.waybill, arrival.links)
    assert Running() == running(arrival.context)


def test_retried_message_is_linked_to_its_past() -> None:
    """An attempt leads to the publish that made the message and to the attempt before it."""
    headers = {"traceparent": SENT, names.HEADER_CREATION: CREATED, names.HEADER_PREVIOUS: TRIED}
    arrival = arrive(arriving(headers, names.RETURN_EXCHANGE), around(), RECORDER)
    assert Hop(creation=CREATED, previous=TRIED) == arrival.waybill.hop
    assert ["00f067aa0ba902b7", "5fb397be34d26b51", "0000000000000008"] == spans(arrival.links)
    assert ["00f067aa0ba902b7", "5fb397be34d26b51"] == spans(arrival.origin)
    assert [] == spans(arrive(arriving({}, names.RETURN_EXCHANGE), Context(), RECORDER).links)


def test_silence_leaves_trace_and_baggage_alone_but_not_the_waybill() -> None:
    """Where instrumentation is suppressed, headers still tell a policy the deadline and the attempt."""
    headers = {"traceparent": SENT, "baggage": "waybill.retries=2", names.HEADER_REQUEST_ID: "123456"}
    arrival = arrive(arriving(headers), Context(), SILENT)
    assert (Waybill(request_id="123456"), Context(), ()) == (arrival.waybill, arrival.context, arrival.links)


def test_far_deadline_is_cut() -> None:
    """Nobody makes a consumer believe in a deadline that lies further away than its policy allows."""
    far, belief = arriving({names.HEADER_DEADLINE: "9" * 15}), Belief(max_deadline=60.0)
    arrival = arrive(far, Context(), RECORDER, belief=belief)
    assert arrival.received.wall + 60.0 == arrival.waybill.deadline


def test_broken_headers_are_told(events: list[Event]) -> None:
    """Listeners can count the facts that arrive broken."""
    arrive(arriving({names.HEADER_RETRIES: []}), Context(), RECORDER)
    assert [HeadersInvalid(queue="orders", names=(names.HEADER_RETRIES,))] == events


def skewed(seconds: float) -> Delivery:
    """A delivery from a sender whose clock is so far ahead."""
    sent = round((time.time() + seconds) * 1000)
    return arriving({names.HEADER_DEADLINE: str(sent + 5000), names.HEADER_TIMEOUT: "5000"})


def test_clock_that_is_ahead_is_told(
    events: list[Event], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listeners can measure the difference; one that makes deadlines worthless is a warning, once."""
    monkeypatch.setattr(guard, "_warned", set())
    arrival = arrive(skewed(60), Context(), RECORDER)
    assert arrival.received.wall + 5.0 == arrival.waybill.deadline
    assert [] == caplog.records
    for _ in range(2):
        assert arrive(skewed(6000), Context(), RECORDER).waybill.deadline is None
    assert [60, 6000, 6000] == [round(event.seconds) for event in events if isinstance(event, ClockSkewed)]
    (record,) = caplog.records
    assert "sent 6000 s in the future (queue 'orders')" in record.getMessage()


def test_stranger_is_not_believed(events: list[Event]) -> None:
    """What a policy does not believe is not there for its handler, nor in the baggage that it passes on."""
    headers = {
        "traceparent": SENT,
        "baggage": "tenant=acme,waybill.retries=2,waybill.deadline=1",
        names.HEADER_REQUEST_ID: [],
    }
    arrival = arrive(arriving(headers), Context(), RECORDER, belief=Belief(trust="none"))
    assert Waybill() == arrival.waybill == running(arrival.inside()).waybill
    assert {"tenant": "acme"} == baggage.get_all(arrival.inside())
    assert MESSAGE == parent(arrival.context)
    assert [] == events


@given(
    st.dictionaries(
        st.sampled_from(["traceparent", "tracestate", "baggage", *names.END_TO_END_HEADERS]) | st.text(),
        hostile,
    ),
    st.sampled_from(["shop", names.RETURN_EXCHANGE]),
    st.sampled_from([SILENT, RECORDER]),
)
def test_no_message_stops_a_consumer(headers: dict[str, Any], exchange: str, recorder: Recorder) -> None:
    """Whatever a message holds, it arrives."""
    assert headers == arrive(arriving(headers, exchange), Context(), recorder).delivery.headers


def test_handler_that_changes_its_headers_changes_no_copy() -> None:
    """Copies are made of what had come, also where a table in it was written to in the meantime."""
    headers = {"tenant": {"name": "acme"}}
    decides = execution(Terms.of(PolicySpec()), arrival := arrive(arriving(headers), Context(), RECORDER))
    decides.start(arrival.received, 0.0)
    headers["tenant"]["name"] = "changed"
    copy = decides.resume(Returned(Settled.REFUSED), arrival.received, 0.0).verdict
    assert isinstance(copy, Republish)
    assert {"name": "acme"} == copy.headers["tenant"]


def test_execution_decides_about_the_arrival() -> None:
    """A failed message without an id is parked under a new unique one."""
    arrival = arrive(arriving({}), Context(), SILENT)
    ids = set()
    for _ in range(2):
        decides = execution(Terms.of(PolicySpec()), arrival)
        assert Run(attempt=1) == decides.start(arrival.received, 0.0).verdict
        copy = decides.resume(Returned(Settled.REFUSED), arrival.received, 0.0).verdict
        assert isinstance(copy, Republish)
        ids.add(copy.waybill.id)
    assert 2 == len(ids - {None})
