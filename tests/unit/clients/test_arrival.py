"""What arrives with a message: decoded without trust, continued without leaks."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry.context import Context

from otel_waybill import names
from otel_waybill.clients.shared.arrival import arrive, execution
from otel_waybill.context import Running, entered, running
from otel_waybill.core.delivery import Delivery
from otel_waybill.core.events import Event, HeadersInvalid
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.verdicts import Republish, Returned, Run, Settled
from otel_waybill.core.waybill import Hop, Waybill
from otel_waybill.resilience import hub
from otel_waybill.resilience.guarded import Terms

SENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CREATED = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
TRIED = "00-0af7651916cd43dd8448eb211c80319c-5fb397be34d26b51-01"
AROUND = trace.SpanContext(7, 8, is_remote=False)

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
    """The span ids of *links*."""
    return [trace.format_span_id(link.span_id) for link in links]


def test_message_continues_its_own_trace(events: list[Event]) -> None:
    """Trace, baggage and waybill are those that the message brought; what is around becomes a link."""
    headers = {
        "traceparent": SENT,
        "baggage": "tenant=acme,waybill.retries=2",
        names.HEADER_REQUEST_ID: "123456",
    }
    arrival = arrive(arriving(headers), around(), silent=False)
    assert Waybill(request_id="123456", retries=2) == arrival.waybill
    assert "b7ad6b7169203331" == trace.format_span_id(
        trace.get_current_span(arrival.context).get_span_context().span_id
    )
    assert "acme" == baggage.get_baggage("tenant", arrival.context)
    assert ["b7ad6b7169203331", "0000000000000008"] == spans(arrival.links)
    assert [] == events


def test_consumer_does_not_rub_off() -> None:
    """A message that brought nothing has nothing, whatever runs around its consumer."""
    arrival = arrive(arriving({}), around(), silent=False)
    assert (Waybill(), ()) == (arrival.waybill, arrival.links)
    assert Running() == running(arrival.context)


def test_retried_message_is_linked_to_its_past() -> None:
    """An attempt leads to the publish that made the message and to the attempt before it."""
    headers = {"traceparent": SENT, names.HEADER_CREATION: CREATED, names.HEADER_PREVIOUS: TRIED}
    arrival = arrive(arriving(headers, names.RETURN_EXCHANGE), around(), silent=False)
    assert Hop(creation=CREATED, previous=TRIED) == arrival.waybill.hop
    assert ["00f067aa0ba902b7", "5fb397be34d26b51", "0000000000000008"] == spans(arrival.links)
    bare = arrive(arriving({}, names.RETURN_EXCHANGE), Context(), silent=False)
    assert [False] * 3 == [link.is_valid for link in bare.links]


def test_silence_leaves_trace_and_baggage_alone_but_not_the_waybill() -> None:
    """Where instrumentation is suppressed, headers still tell a policy the deadline and the attempt."""
    headers = {"traceparent": SENT, "baggage": "waybill.retries=2", names.HEADER_REQUEST_ID: "123456"}
    arrival = arrive(arriving(headers), Context(), silent=True)
    assert (Waybill(request_id="123456"), Context(), ()) == (arrival.waybill, arrival.context, arrival.links)


def test_far_deadline_is_cut() -> None:
    """Nobody makes a consumer believe in a deadline that lies further away than its policy allows."""
    arrival = arrive(arriving({names.HEADER_DEADLINE: "9" * 15}), Context(), silent=False, max_deadline=60.0)
    assert arrival.received.wall + 60.0 == arrival.waybill.deadline


def test_broken_headers_are_told(events: list[Event]) -> None:
    """Listeners can count the facts that arrive broken."""
    arrive(arriving({names.HEADER_RETRIES: []}), Context(), silent=False)
    assert [HeadersInvalid(queue="orders", names=(names.HEADER_RETRIES,))] == events


@given(
    st.dictionaries(
        st.sampled_from(["traceparent", "tracestate", "baggage", *names.END_TO_END_HEADERS]) | st.text(),
        hostile,
    ),
    st.sampled_from(["shop", names.RETURN_EXCHANGE]),
    st.booleans(),
)
def test_no_message_stops_a_consumer(headers: dict[str, Any], exchange: str, silent: bool) -> None:  # noqa: FBT001 - drawn
    """Whatever a message holds, it arrives."""
    assert headers == arrive(arriving(headers, exchange), Context(), silent=silent).delivery.headers


def test_execution_decides_about_the_arrival() -> None:
    """A failed message without an id is parked under a new unique one."""
    arrival = arrive(arriving({}), Context(), silent=True)
    ids = set()
    for _ in range(2):
        decides = execution(Terms(spec=PolicySpec()), arrival)
        assert Run(attempt=1) == decides.start(arrival.received, 0.0).verdict
        copy = decides.resume(Returned(Settled.REFUSED), arrival.received, 0.0).verdict
        assert isinstance(copy, Republish)
        ids.add(copy.waybill.id)
    assert 2 == len(ids - {None})
