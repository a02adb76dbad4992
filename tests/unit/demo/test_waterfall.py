"""Where things stand in a waterfall."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from stage.picture import paint
from stage.spans import CONSUMER, PRODUCER, Span, by_trace, changes, orphans, request_id
from stage.waterfall import Axis, Kind, Row, chart, overview

from unit.demo import synthetic

SERVICES = ("shop", "orders", "payments", "mail")
DESTINATIONS = (
    "demo.orders.r1",
    "waybill.delay.v1.707:demo.payments.r1",
    "waybill.parking.v1:x",
    "elsewhere",
)


@st.composite
def traces(draw: st.DrawFn) -> list[Span]:
    """Any tree of publishes and attempts, timed in any way."""
    spans: list[Span] = []
    for n in range(draw(st.integers(1, 12))):
        start = draw(st.floats(0, 100))
        spans.append(
            Span(
                trace="t",
                id=str(n),
                parent=draw(st.sampled_from([None, "unknown", *(span.id for span in spans)])),
                service=draw(st.sampled_from(SERVICES)),
                name="any",
                kind=draw(st.sampled_from([PRODUCER, CONSUMER])),
                start=start,
                end=start + draw(st.floats(0, 100)),
                failed=draw(st.booleans()),
                attributes={
                    "messaging.destination.name": draw(st.sampled_from(DESTINATIONS)),
                    "waybill.held_ms": draw(st.integers(0, 10**6)),
                    "waybill.deadline_remaining_ms": draw(st.none() | st.integers(-(10**6), 10**6)),
                },
            )
        )
    return spans


def test_attempts_of_one_message_stand_side_by_side_with_the_waits_between_them() -> None:
    """Retries do not lead deeper; attempts are numbered where there is more than one."""
    rows = chart("retried", synthetic.retried()).rows

    assert [
        (0, "publish orders"),
        (1, "process orders"),
        (2, "publish payments"),
        (3, "process payments #1"),
        (3, "wait 707 ms"),
        (3, "process payments #2"),
        (3, "wait 1414 ms"),
        (3, "process payments #3"),
        (4, "publish receipts"),
        (5, "process receipts"),
    ] == [(row.depth, row.label) for row in rows]


def test_backoff_fills_the_gap_up_to_the_next_attempt() -> None:
    """The wait is drawn from the publish to the ladder to the start of the next attempt."""
    rows = chart("retried", synthetic.retried()).rows
    for wait, attempt in ((rows[4], rows[5]), (rows[6], rows[7])):
        (backoff,) = (stretch for stretch in wait.stretches if stretch.kind is Kind.BACKOFF)
        (work,) = attempt.stretches

        assert abs(work.start - backoff.end) < 0.01


def test_outcome_says_what_and_why() -> None:
    """A failed attempt names its error, a parked message its reason."""
    retried = chart("retried", synthetic.retried()).rows
    late = chart("late", synthetic.late()).rows

    assert ("retried: GatewayTimeout", True) == (retried[3].note, retried[3].failed)
    assert ("handled", False) == (retried[7].note, retried[7].failed)
    assert ("parked: deadline", "park payments.parked") == (late[3].note, late[4].label)
    assert -1410 == late[2].left


def test_overview_shows_the_breaker_over_its_requests() -> None:
    """The states of the breaker follow each other without a gap; held deliveries are seen to be held."""
    spans = [span for trace in synthetic.outage() for span in trace]
    picture = overview("outage", "payments", synthetic.outage())
    breaker, first, second = picture.rows

    assert [Kind.CLOSED, Kind.OPEN, Kind.HALF_OPEN, Kind.CLOSED] == [s.kind for s in breaker.stretches]
    assert all(a.end == b.start for a, b in pairwise(breaker.stretches))
    assert [Kind.FAILED, Kind.BACKOFF, Kind.HELD, Kind.WORK] == [s.kind for s in first.stretches]
    assert [Kind.HELD, Kind.WORK] == [s.kind for s in second.stretches]
    assert ("order-5", "handled, attempt 1") == (second.label, second.note)
    assert ["open", "half-open", "closed"] == [change.after for change in changes(spans)]


def test_a_trace_without_spans_is_an_empty_chart() -> None:
    """Drawing nothing is not an error."""
    assert () == chart("nothing", []).rows
    assert () == overview("nothing", "payments", []).rows


@given(traces())
def test_every_span_has_a_row_after_its_parent(spans: list[Span]) -> None:
    """No span is left out or drawn twice, and the tree is never upside down."""
    picture = chart("any", spans)
    depths = [row.depth for row in picture.rows]

    assert len(spans) == len(picture.rows)
    assert 0 == depths[0]
    assert all(after <= before + 1 for before, after in pairwise(depths))


@given(traces(), st.integers(100, 120))
def test_every_line_has_the_width_it_was_given(spans: list[Span], width: int) -> None:
    """However deep, long or odd a trace is, its columns stay in line."""
    for picture in (chart("any", spans), overview("any", "payments", [spans])):
        assert {width} == {line.cell_len for line in paint(picture, width)}


@given(st.floats(0, 1e6), st.floats(1e-3, 1e6), st.integers(10, 100), st.floats(-1e6, 2e6), st.floats(0, 1e6))
def test_a_stretch_is_seen_and_stays_on_the_axis(
    start: float, length: float, columns: int, at: float, duration: float
) -> None:
    """However short or far away, it takes at least half a column of the axis."""
    first, last = Axis(start, start + length, columns).span(at, at + duration)

    assert 0 <= first < last <= columns * 2


@given(st.floats(1e-3, 1e6), st.integers(20, 100))
def test_ticks_do_not_run_into_each_other(length: float, columns: int) -> None:
    """Labels of up to eight characters fit between two ticks."""
    ticks = [column for column, _ in Axis(0.0, length, columns).ticks(9)]

    assert 0 == ticks[0]
    assert all(8 <= after - before for before, after in pairwise(ticks[:-1]))


def test_traces_are_grouped_and_named() -> None:
    """Traces come by their first start, each with the request that it belongs to."""
    spans = [span for trace in reversed(synthetic.outage()) for span in trace]

    assert ["1" * 32, "2" * 32] == list(by_trace(spans))
    assert ["order-4", "order-5"] == [request_id(trace) for trace in by_trace(spans).values()]
    assert request_id([]) is None


def test_orphans_are_those_whose_parent_did_not_arrive() -> None:
    """A root is no orphan; a span whose parent is in another trace is one."""
    spans = synthetic.retried()

    assert [] == orphans(spans)
    assert [spans[2]] == orphans(spans[:1] + spans[2:])


def test_a_row_needs_no_more_than_a_service_and_a_label() -> None:
    """Whatever else is unknown is left blank."""
    assert Row(service="shop", label="x") == Row(service="shop", label="x", depth=0, left=None, note="")
