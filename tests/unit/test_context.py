"""The waybill of the running code: blocks tighten, nothing leaks, and baggage is not trusted."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.context import Context

import otel_waybill as waybill
from otel_waybill import context, names
from otel_waybill.context import Attached, Running, cleared, entered, inherited, running
from otel_waybill.core.belief import SKEW_TOLERANCE
from otel_waybill.core.delivery import Instant
from otel_waybill.core.waybill import EMPTY, LARGEST_COUNT, Waybill, decode_end_to_end
from otel_waybill.errors import DeadlineExceeded, InvalidRequest

MONOTONIC = 1000.0
WALL = 1_764_000_000.0


class Clock:
    """Both clocks, standing still until a test moves them."""

    def __init__(self) -> None:
        self.passed = 0.0

    def monotonic(self) -> float:
        """Seconds, from somewhere."""
        return MONOTONIC + self.passed

    def time(self) -> float:
        """Seconds, Unix time."""
        return WALL + self.passed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which this test lives."""
    clock = Clock()
    monkeypatch.setattr(context, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Every test leaves the context as it found it."""
    before = otel.get_current()
    yield
    assert before == otel.get_current()


def members() -> dict[str, object]:
    """The baggage of the running code, in its order."""
    return dict(baggage.get_all())


def test_outside_of_everything_there_is_an_empty_waybill(clock: Clock) -> None:
    """Code that runs on nobody's behalf has no deadline, and may ask all the same."""
    del clock
    assert waybill.current() is EMPTY
    assert waybill.remaining() is None
    waybill.check()
    context.check_publish()


def test_block_states_facts_and_takes_them_back(clock: Clock) -> None:
    """Inside the block the facts hold, in the baggage too; after it nothing is left of them."""
    del clock
    with waybill.request(id="123456", deadline=5.0, retry_limit=10):
        assert Waybill(request_id="123456", deadline=WALL + 5, retry_limit=10) == waybill.current()
        assert 5.0 == waybill.remaining()
        expected = {
            names.BAGGAGE_DEADLINE: "1764000005000",
            names.BAGGAGE_TIMEOUT: "5000",
            names.BAGGAGE_REQUEST_ID: "123456",
            names.BAGGAGE_RETRY_LIMIT: "10",
        }
        assert expected == members()
    assert EMPTY is waybill.current()
    assert {} == members()


def test_every_argument_is_optional(clock: Clock) -> None:
    """A block that states nothing changes nothing."""
    del clock
    with waybill.request():
        assert EMPTY == waybill.current()
        assert {} == members()
    with waybill.deadline(5.0):
        assert Waybill(deadline=WALL + 5) == waybill.current()


@given(
    outer=st.floats(0.001, 86_400),
    inner=st.floats(0.001, 86_400),
    limits=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_nesting_only_tightens(outer: float, inner: float, limits: tuple[int, int]) -> None:
    """No block inside another gives itself more time or more retries than the other has."""
    with waybill.request(deadline=outer, retry_limit=limits[0]):
        before = waybill.current()
        with waybill.request(deadline=inner, retry_limit=limits[1]):
            after, left = waybill.current(), waybill.remaining()
        assert before == waybill.current()
    assert before.deadline is not None
    assert after.deadline is not None
    assert left is not None
    assert after.deadline <= before.deadline
    assert left <= min(outer, inner)
    assert min(limits) == after.retry_limit


def test_inner_block_keeps_what_it_does_not_state(clock: Clock) -> None:
    """Naming the request again does not lose its deadline."""
    del clock
    with waybill.request(id="outer", deadline=5.0, retry_limit=3), waybill.request(id="inner"):
        assert Waybill(request_id="inner", deadline=WALL + 5, retry_limit=3) == waybill.current()
        assert running().enforced


def test_block_counts_from_when_it_is_entered(clock: Clock) -> None:
    """A block that is made early starts late, in the span and baggage of the place where it is entered."""
    block = waybill.deadline(5.0)
    clock.passed = 60.0
    span = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False))
    with trace.use_span(span), block:
        assert 5.0 == waybill.remaining()
        assert span is trace.get_current_span()
        with block:
            assert 5.0 == waybill.remaining()
        assert 5.0 == waybill.remaining()


@pytest.mark.parametrize("make", [lambda: waybill.request(deadline=5.0, id="1"), waybill.detached])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_exception_leaves_nothing_behind(
    make: Callable[[], context.Block], error: type[BaseException]
) -> None:
    """However a block is left, its facts stay inside, and the exception passes through."""
    with waybill.request(id="outer"):
        before = otel.get_current()
        with pytest.raises(error), make():
            raise error
        assert before == otel.get_current()


def test_detached_code_outlives_the_request(clock: Clock) -> None:
    """A fact that must not die with its request has no deadline, retries or limit, but the same request."""
    with waybill.request(id="123456", deadline=5.0, retry_limit=3):
        clock.passed = 60.0
        with waybill.detached():
            assert Waybill(request_id="123456") == waybill.current()
            assert waybill.remaining() is None
            waybill.check()
            context.check_publish()
            assert {names.BAGGAGE_REQUEST_ID: "123456"} == members()
            with waybill.deadline(2.0):
                assert 2.0 == waybill.remaining()
        with pytest.raises(DeadlineExceeded):
            waybill.check()


def test_check_raises_from_the_deadline_on(clock: Clock) -> None:
    """The error says by how much the deadline is overdue; one moment before it there is none."""
    with waybill.deadline(5.0):
        clock.passed = 4.75
        waybill.check()
        clock.passed = 7.0
        assert -2.0 == waybill.remaining()
        with pytest.raises(DeadlineExceeded) as caught:
            waybill.check()
        assert 2.0 == caught.value.overdue
        clock.passed = 5.0
        with pytest.raises(DeadlineExceeded):
            waybill.check()


def test_only_a_block_of_this_process_refuses_to_publish(clock: Clock) -> None:
    """What was half done when an inherited deadline passed can be finished; an explicit block is strict."""
    received = Instant(MONOTONIC, WALL)
    handling = entered(inherited(Waybill(deadline=WALL + 5), received), Context())
    clock.passed = 6.5
    context.check_publish(handling)
    token = otel.attach(handling)
    with pytest.raises(DeadlineExceeded):
        waybill.check()
    with waybill.request(id="compensation"):
        context.check_publish()
    with waybill.deadline(60.0), pytest.raises(DeadlineExceeded):
        context.check_publish()
    otel.detach(token)


def test_inherited_deadline_is_monotonic_and_tolerates_clocks_that_differ() -> None:
    """A wall clock that is set meanwhile moves no deadline; children get the one that came."""
    assert Running(waybill=EMPTY) == inherited(EMPTY, Instant(MONOTONIC, WALL))
    waybill = Waybill(deadline=WALL + 5)
    expected = Running(waybill=waybill, due=MONOTONIC + 5 + SKEW_TOLERANCE)
    assert expected == inherited(waybill, Instant(MONOTONIC, WALL))


def test_block_in_a_handler_is_as_strict_as_its_own_deadline(clock: Clock) -> None:
    """Within an inherited deadline, which is tolerant, a block's own is exact, and the earlier one counts."""
    handling = entered(inherited(Waybill(deadline=WALL + 5), Instant(MONOTONIC, WALL)), Context())
    token = otel.attach(handling)
    assert 6.0 == waybill.remaining()
    with waybill.deadline(2.0):
        assert (2.0, WALL + 2) == (waybill.remaining(), waybill.current().deadline)
    with waybill.deadline(60.0):
        assert (6.0, WALL + 5) == (waybill.remaining(), waybill.current().deadline)
    clock.passed = 5.5
    waybill.check()
    clock.passed = 6.0
    with pytest.raises(DeadlineExceeded):
        waybill.check()
    otel.detach(token)


def test_messages_expire_only_where_that_is_asked_for(clock: Clock) -> None:
    """The expiration is what is left of whichever deadline holds; without a deadline there is none."""

    def expirations(*own: str | None) -> list[str | None]:
        state = context.check_publish()
        return [context.expiration_in(state, each) if state.expires else "kept" for each in own]

    with waybill.request(deadline=5.0):
        assert ["kept"] == expirations(None)
        with waybill.request(expire=True):
            clock.passed = 1.25
            assert ["3750", "3000", "3750"] == expirations(None, "3000", "9000")
            with waybill.deadline(0.5):
                assert ["500"] == expirations(None)
            with waybill.detached():
                assert ["kept"] == expirations(None)
    with waybill.request(expire=True):
        assert [None, "3000"] == expirations(None, "3000")


def test_our_members_come_first(clock: Clock) -> None:
    """When baggage is too long its end is cut off: that must not be the deadline."""
    del clock
    token = otel.attach(baggage.set_baggage("tenant", "acme"))
    with waybill.deadline(5.0):
        assert [names.BAGGAGE_DEADLINE, names.BAGGAGE_TIMEOUT, "tenant"] == list(members())
        with waybill.detached():
            assert {"tenant": "acme"} == members()
    otel.detach(token)


def test_work_that_came_over_http_has_its_waybill(clock: Clock) -> None:
    """A request that came over HTTP has its deadline here, by baggage alone, and children inherit it."""
    carried = {names.BAGGAGE_DEADLINE: "1764000005000", names.BAGGAGE_REQUEST_ID: "123456"}
    arrived = Context()
    for name, value in carried.items():
        arrived = baggage.set_baggage(name, value, arrived)
    token = otel.attach(arrived)
    assert Waybill(request_id="123456", deadline=WALL + 5) == waybill.current()
    assert 5.0 + SKEW_TOLERANCE == waybill.remaining()
    clock.passed = 7.0
    assert -1.0 == waybill.remaining()
    context.check_publish()
    with waybill.request(retry_limit=3):
        assert Waybill(request_id="123456", deadline=WALL + 5, retry_limit=3) == waybill.current()
    otel.detach(token)


@given(
    st.dictionaries(
        st.sampled_from([value for key, value in vars(names).items() if key.startswith("BAGGAGE_")])
        | st.text(),
        st.text() | st.integers() | st.binary() | st.none() | st.lists(st.text()),
    )
)
def test_hostile_baggage_harms_nobody(carried: dict[str, Any]) -> None:
    """Whatever another service writes into its baggage, our code asks and is answered."""
    arrived = Context()
    for name, value in carried.items():
        arrived = baggage.set_baggage(name, value, arrived)
    token = otel.attach(arrived)
    try:
        with waybill.request(id="123456"):
            assert "123456" == waybill.current().request_id
        left = waybill.remaining()
        assert left is None or left <= 86_400 + SKEW_TOLERANCE
    finally:
        otel.detach(token)


def test_message_starts_with_what_it_brought(clock: Clock) -> None:
    """What is around a consumer does not rub off on its messages; the baggage of others stays."""
    del clock
    assert Context() == cleared(Context())
    around = baggage.set_baggage("tenant", "acme", Context())
    assert around is cleared(around)
    inside = entered(Running(waybill=Waybill(request_id="123456")), around)
    assert Running() == running(cleared(inside))
    assert {"tenant": "acme"} == baggage.get_all(cleared(inside))


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"id": ""}, "need id of 1 to 128 printable ASCII characters, got ''"),
        ({"id": "a" * 129}, "need id of 1 to 128"),
        ({"id": "ä"}, "need id of 1 to 128"),
        ({"id": "a\nb"}, "need id of 1 to 128"),
        ({"id": b"bytes"}, "need id of 1 to 128"),
        ({"id": 5}, "need id of 1 to 128"),
        ({"deadline": 0.0}, r"need 0 < deadline <= 86400 \(seconds from now\), got 0.0"),
        ({"deadline": -1.0}, "need 0 < deadline"),
        ({"deadline": 86_401}, "need 0 < deadline"),
        ({"deadline": float("nan")}, "need 0 < deadline"),
        ({"deadline": float("inf")}, "need 0 < deadline"),
        ({"retry_limit": -1}, f"need 0 <= retry_limit <= {LARGEST_COUNT}, got -1"),
        ({"retry_limit": LARGEST_COUNT + 1}, "need 0 <= retry_limit"),
        ({"retry_limit": 2.5}, "need 0 <= retry_limit"),
        ({"retry_limit": "3"}, "need 0 <= retry_limit"),
    ],
)
def test_what_breaks_a_rule_is_refused_at_once(arguments: dict[str, Any], rule: str) -> None:
    """What could not travel is refused where it is made, with the rule, its unit and what was seen."""
    with pytest.raises(InvalidRequest, match=rule):
        waybill.request(**arguments)


@given(id=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=128))
def test_what_is_allowed_travels(id: str) -> None:  # noqa: A002 - the word users know
    """Every id that is accepted is one that the next service accepts as well."""
    with waybill.request(id=id):
        carried = baggage.get_all()
    assert id == decode_end_to_end({}, carried, now=time.time()).waybill.request_id


def test_context_is_current_for_a_while() -> None:
    """A block runs in the context it was given, whatever leaves it, and may be entered again."""
    given = baggage.set_baggage("tenant", "acme", Context())
    block = Attached(given)
    for _ in range(2):
        with contextlib.suppress(ValueError), block as inside:
            assert given is inside is otel.get_current()
            raise ValueError
        assert baggage.get_baggage("tenant") is None
