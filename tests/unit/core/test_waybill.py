"""The waybill: what is written is what is read, and what is hostile is absent."""

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_waybill import names
from otel_waybill.core.belief import BELIEF, LARGEST_SKEW, Belief
from otel_waybill.core.copies import retry_headers
from otel_waybill.core.delivery import Delivery
from otel_waybill.core.waybill import (
    BAGGAGE_KEYS,
    EMPTY,
    LARGEST_COUNT,
    Decoded,
    Hop,
    Waybill,
    decode,
    decode_end_to_end,
    end_to_end_headers,
    expiration,
)

NOW = 1_764_000_000.0
DAY = 86_400.0
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

facts = [
    *names.END_TO_END_HEADERS,
    names.HEADER_ATTEMPT,
    names.HEADER_ID,
    names.HEADER_CREATION,
    names.HEADER_PREVIOUS,
    names.HEADER_ORIGIN_EXCHANGE,
    names.HEADER_ORIGIN_ROUTING_KEY,
    names.HEADER_ORIGIN_USER_ID,
    names.HEADER_ORIGIN_EXPIRATION,
    names.HEADER_FIRST_FAILED_AT,
]
scalars: st.SearchStrategy[object] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=300)
    | st.binary(max_size=300)
    | st.decimals()
    | st.integers(0, 10**15).map(str)
)
hostile = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=4
)
ascii_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=128)
waybills = st.builds(
    Waybill,
    request_id=st.none() | ascii_text,
    deadline=st.none() | st.floats(NOW, NOW + DAY),
    retries=st.integers(0, LARGEST_COUNT),
    retry_limit=st.none() | st.integers(0, LARGEST_COUNT),
)


def arriving(
    headers: dict[str, Any],
    exchange: str = "shop",
    message_id: str | None = None,
    user_id: str | None = None,
) -> Delivery:
    """A delivery with these *headers*, which nobody may write to."""
    return Delivery(
        queue="orders",
        exchange=exchange,
        routing_key="order.created",
        headers=MappingProxyType(headers),
        message_id=message_id,
        user_id=user_id,
    )


def read(headers: dict[str, Any], baggage: dict[str, Any] | None = None, now: float = NOW) -> Decoded:
    """What a reader makes of a message."""
    return decode(arriving(headers), baggage or {}, now=now, belief=BELIEF)


def carried(baggage: dict[str, Any]) -> Waybill:
    """What a reader makes of baggage that came over HTTP."""
    return decode_end_to_end({}, baggage, now=NOW).waybill


def returned(headers: dict[str, Any], message_id: str | None = None) -> Decoded:
    """What a reader makes of a message that the ladder returned."""
    delivery = arriving(headers, names.RETURN_EXCHANGE, message_id)
    return decode(delivery, {}, now=NOW, belief=BELIEF)


@given(waybills)
def test_what_is_written_is_what_is_read(waybill: Waybill) -> None:
    """Whatever a program sends end to end arrives, by header or by baggage, exact to the millisecond."""
    headers = end_to_end_headers(waybill, NOW)
    baggage = {BAGGAGE_KEYS[name]: value for name, value in headers.items()}
    by_header, invalid, _ = read(dict(headers))
    assert () == invalid
    assert by_header == carried(baggage)
    assert (waybill.request_id, waybill.retries, waybill.retry_limit) == (
        by_header.request_id,
        by_header.retries,
        by_header.retry_limit,
    )
    assert pytest.approx(waybill.deadline, abs=0.0006) == by_header.deadline


@given(waybills, st.integers(1, 20))
def test_deadline_does_not_drift_from_hop_to_hop(waybill: Waybill, hops: int) -> None:
    """Twenty services later the deadline is still the one that the first of them sent."""
    first, *_ = read(dict(end_to_end_headers(waybill, NOW)))
    last = first
    for _ in range(hops):
        last, *_ = read(dict(end_to_end_headers(last, NOW)))
    assert first == last


@given(st.dictionaries(st.sampled_from(facts), hostile), st.dictionaries(st.text(), hostile), st.booleans())
def test_no_header_table_stops_a_consumer(
    ours: dict[str, Any],
    others: dict[str, Any],
    through: bool,  # noqa: FBT001 - drawn
) -> None:
    """Anything may stand under any name: what makes sense is read, the rest is absent and counted."""
    table = others | ours
    waybill, invalid, _ = returned(table) if through else read(table)
    assert 1 <= waybill.attempt <= LARGEST_COUNT
    assert 0 <= waybill.retries <= LARGEST_COUNT
    assert waybill.deadline is None or 0 <= waybill.deadline <= NOW + DAY
    assert set(invalid) <= {name for name, value in table.items() if value is not None}
    assert all(value.encode() is not None for value in end_to_end_headers(waybill, NOW).values())


@given(
    st.dictionaries(st.sampled_from(facts), hostile),
    st.dictionaries(st.sampled_from([*BAGGAGE_KEYS.values()]), hostile),
    st.sampled_from(["shop", "guest", None, "", "é"]),
    st.booleans(),
)
def test_nothing_of_a_stranger_is_believed(
    headers: dict[str, Any],
    baggage: dict[str, Any],
    user_id: str | None,
    through: bool,  # noqa: FBT001 - drawn
) -> None:
    """Whoever is not on the list has no say, in any shape; and nobody is told of what is not even read."""
    delivery = arriving(headers, names.RETURN_EXCHANGE if through else "shop", user_id=user_id)
    decoded = decode(delivery, baggage, now=NOW, belief=Belief(trust=frozenset({"billing"})))
    if through:
        # What a copy says is our own, but not what its baggage says.
        assert decoded == decode(delivery, {}, now=NOW, belief=BELIEF)
    else:
        assert Decoded(EMPTY if not delivery.message_id else Waybill(id=delivery.message_id)) == decoded


@given(st.dictionaries(st.sampled_from([*BAGGAGE_KEYS.values(), "tenant"]), hostile))
def test_no_baggage_stops_a_program(baggage: dict[str, Any]) -> None:
    """Baggage is anybody's text: what makes no sense in it is absent."""
    assert 1 == carried(baggage).attempt


def test_what_makes_no_sense_is_counted_by_name() -> None:
    """Whoever runs the program can see which facts arrive broken, and only those."""
    headers = {
        names.HEADER_DEADLINE: "2026-01-01T00:00:00Z",
        names.HEADER_REQUEST_ID: "a" * 129,
        names.HEADER_RETRIES: str(LARGEST_COUNT + 1),
        names.HEADER_RETRY_LIMIT: 3,
        names.HEADER_TIMEOUT: None,
    }
    broken = (names.HEADER_REQUEST_ID, names.HEADER_DEADLINE, names.HEADER_RETRIES)
    assert Decoded(Waybill(retry_limit=3), broken) == read(headers)


def test_message_of_a_stranger_is_an_empty_waybill() -> None:
    """A message that carries nothing of ours has nothing of ours."""
    assert Decoded(EMPTY) == read({"tenant": "acme"}, {"tenant": "acme"})


def test_headers_win_over_baggage() -> None:
    """Baggage can be dropped or stale; a header beside it is what holds, fact by fact."""
    headers = {names.HEADER_REQUEST_ID: "header", names.HEADER_RETRIES: "0"}
    baggage = {
        names.BAGGAGE_REQUEST_ID: "baggage",
        names.BAGGAGE_RETRIES: "5",
        names.BAGGAGE_RETRY_LIMIT: "9",
    }
    assert Waybill(request_id="header", retries=0, retry_limit=9) == read(headers, baggage).waybill


def test_broken_header_leaves_the_baggage() -> None:
    """A header that makes no sense is as good as none."""
    waybill, invalid, _ = read({names.HEADER_RETRIES: [5]}, {names.BAGGAGE_RETRIES: "5"})
    assert (5, (names.HEADER_RETRIES,)) == (waybill.retries, invalid)


def test_properties_of_a_baggage_member_are_not_its_value() -> None:
    """Another SDK may add properties to our members; the number before them still counts."""
    baggage = {
        names.BAGGAGE_RETRIES: "5;hop=http",
        names.BAGGAGE_RETRY_LIMIT: "9 ;x",
        names.BAGGAGE_REQUEST_ID: "a;b",
    }
    assert Waybill(request_id="a;b", retries=5, retry_limit=9) == read({}, baggage).waybill


@pytest.mark.parametrize(
    ("left", "timeout", "expected"),
    [
        (5.0, 5000, 5.0),  # clocks agree
        (5.0, 4000, 4.0),  # the receiver's clock is behind
        (5.0, 9000, 5.0),  # time has passed on the way
        (-5.0, 3000, -5.0),  # long past
        (5.0, 0, 0.0),  # nothing was left when it was sent
        (5.0, None, 5.0),
        (10**6, None, DAY),  # further than anybody should believe
        (10**6, 10**9, DAY),
        (10**6, "never", DAY),
    ],
)
def test_deadline_is_believed_no_further_than_its_timeout(
    left: float, timeout: object, expected: float
) -> None:
    """Neither a clock that is wrong nor a liar gives a message more time than was left, or than a day."""
    headers = {names.HEADER_DEADLINE: round((NOW + left) * 1000), names.HEADER_TIMEOUT: timeout}
    assert NOW + expected == read(headers).waybill.deadline


SAID: dict[str, Any] = {
    names.HEADER_REQUEST_ID: "123456",
    names.HEADER_DEADLINE: round((NOW + 5) * 1000),
    names.HEADER_TIMEOUT: 5000,
    names.HEADER_RETRIES: "3",
    names.HEADER_RETRY_LIMIT: "9",
}
ALL_SAID = Waybill(request_id="123456", deadline=NOW + 5, retries=3, retry_limit=9)


@pytest.mark.parametrize("by_header", [True, False])
def test_listed_senders_are_believed(*, by_header: bool) -> None:
    """A user id on the list, which the broker has validated, opens headers and baggage; no other does."""
    belief = Belief(trust=frozenset({"shop", "billing"}))
    headers = SAID if by_header else {}
    baggage = {} if by_header else {BAGGAGE_KEYS[name]: value for name, value in SAID.items()}
    for user_id, expected in (("shop", ALL_SAID), ("guest", EMPTY), (None, EMPTY)):
        delivery = arriving(headers, user_id=user_id)
        assert Decoded(expected) == decode(delivery, baggage, now=NOW, belief=belief)


def test_header_of_a_stranger_does_not_make_him_known() -> None:
    """The user id of an origin counts only where copies come from; anybody can write a header."""
    headers = SAID | {names.HEADER_ORIGIN_USER_ID: "shop"}
    assert Decoded(EMPTY) == decode(arriving(headers), {}, now=NOW, belief=Belief(trust=frozenset({"shop"})))


@pytest.mark.parametrize(("user_id", "expected"), [("shop", "123456"), ("guest", None), (None, None)])
def test_baggage_of_a_copy_is_that_of_its_origin(user_id: str | None, expected: str | None) -> None:
    """What a copy carries beside our headers is believed as far as whoever published the original."""
    headers = {} if user_id is None else {names.HEADER_ORIGIN_USER_ID: user_id}
    copy = arriving(headers, names.RETURN_EXCHANGE, user_id=None if user_id == "shop" else "shop")
    baggage = {names.BAGGAGE_REQUEST_ID: "123456"}
    decoded = decode(copy, baggage, now=NOW, belief=Belief(trust=frozenset({"shop"})))
    assert expected == decoded.waybill.request_id


@given(st.integers(1, 5), st.sampled_from(["shop", "guest", None]))
def test_retries_keep_the_trust_of_their_original(retries: int, user_id: str | None) -> None:
    """A message that is believed stays so through the ladder, and one that is not gains nothing there."""
    belief = Belief(trust=frozenset({"shop"}))
    original = arriving({"tenant": "acme", **SAID}, user_id=user_id, message_id="4711")
    stale = {BAGGAGE_KEYS[name]: value for name, value in SAID.items()}
    first = decode(original, stale, now=NOW, belief=belief).waybill
    delivery, waybill = original, first
    for _ in range(retries):
        headers = retry_headers(delivery, waybill.retried(), NOW)
        # The copy has no user id: that of its publisher would be ours. Its baggage may be the stranger's.
        delivery = arriving(headers, names.RETURN_EXCHANGE, "4711")
        waybill = decode(delivery, stale, now=NOW, belief=belief).waybill
    assert replace(first, attempt=1 + retries, retries=first.retries + retries, hop=waybill.hop) == waybill
    assert waybill.hop is not None
    assert user_id == waybill.hop.user_id
    assert (waybill.request_id, waybill.deadline) == (
        ("123456", NOW + 5) if user_id == "shop" else (None, None)
    )


def test_ignored_deadline_is_as_good_as_absent() -> None:
    """Neither its value nor its nonsense is anybody's business; the other facts count."""
    belief = Belief(deadline="ignore")
    nonsense = SAID | {names.HEADER_DEADLINE: "tomorrow"}
    far = SAID | {names.HEADER_DEADLINE: "9" * 15}
    for headers in (SAID, nonsense, far):
        decoded = decode(arriving(headers), {}, now=NOW, belief=belief)
        assert Decoded(replace(ALL_SAID, deadline=None)) == decoded


def test_clock_that_is_ahead_is_told() -> None:
    """The deadline counts from here; when the clock is far off there is none, in baggage neither."""
    skewed = SAID | {names.HEADER_DEADLINE: round((NOW + 35) * 1000)}
    assert Decoded(ALL_SAID, skew=30.0) == read(skewed)
    wrong = SAID | {names.HEADER_DEADLINE: round((NOW + 5 + 2 * LARGEST_SKEW) * 1000)}
    baggage = {names.BAGGAGE_DEADLINE: round((NOW + 5) * 1000), names.BAGGAGE_TIMEOUT: 5000}
    assert Decoded(replace(ALL_SAID, deadline=None), skew=2 * LARGEST_SKEW) == read(wrong, baggage)
    assert Decoded(replace(EMPTY, deadline=NOW + 5)) == read({}, baggage)


@pytest.mark.parametrize(
    ("seconds", "own", "expected"),
    [
        (5.0, None, "5000"),
        (0.0001, None, "1"),  # rounded up
        (0.0, None, "1"),  # 0 would be dropped even where a consumer waits
        (-5.0, None, "1"),
        (5.0, "4000", "4000"),
        (5.0, "6000", "5000"),
        (5.0, "0", "0"),
        (5.0, "soon", "soon"),  # the broker says what is wrong with it
    ],
)
def test_expiration_is_what_is_left(seconds: float, own: str | None, expected: str) -> None:
    """A message that nobody waits for may go; one that its sender wants gone earlier goes earlier."""
    assert expected == expiration(seconds, own)


@given(st.floats(-(10**6), 86_400), st.none() | st.integers(0, 10**9).map(str))
def test_expiration_is_one_that_the_broker_takes(seconds: float, own: str | None) -> None:
    """Never 0 of our making, never less than what is left, never longer than the message's own."""
    made = int(expiration(seconds, own))
    assert made >= (1 if own is None else min(1, int(own)))
    assert made == int(own or -1) or made >= seconds * 1000
    assert own is None or made <= int(own)


def test_timeout_alone_is_no_deadline() -> None:
    """The timeout only corrects the deadline beside it: alone it says nothing about when it began."""
    assert Decoded(EMPTY) == read({names.HEADER_TIMEOUT: "5000"})


def test_deadline_of_one_source_is_not_corrected_by_another() -> None:
    """A header's deadline goes with the header's timeout; the baggage was set at another time."""
    headers = {names.HEADER_DEADLINE: round((NOW + 5) * 1000)}
    baggage = {names.BAGGAGE_TIMEOUT: "1000", names.BAGGAGE_DEADLINE: "1"}
    assert NOW + 5 == read(headers, baggage).waybill.deadline


def test_past_deadline_leaves_no_time() -> None:
    """No number on the wire is negative: what is past has 0 ms left."""
    headers = end_to_end_headers(Waybill(deadline=NOW - 5), NOW)
    assert ("1763999995000", "0") == (headers[names.HEADER_DEADLINE], headers[names.HEADER_TIMEOUT])
    assert "0" == end_to_end_headers(Waybill(deadline=-1.0), NOW)[names.HEADER_DEADLINE]


def test_empty_waybill_writes_nothing() -> None:
    """A program that uses none of this sends not a byte more."""
    assert {} == end_to_end_headers(EMPTY, NOW)


def test_facts_of_one_message_do_not_pass_to_others() -> None:
    """A message sent while handling attempt 3 is a first attempt itself."""
    running = Waybill(attempt=3, id="4711", hop=Hop(exchange="shop"), retries=2)
    assert {names.HEADER_RETRIES: "2"} == end_to_end_headers(running, NOW)


def test_hop_facts_count_only_from_the_return_exchange() -> None:
    """Nobody can make a message look retried by writing headers: the broker guards the way they must come."""
    headers = {
        names.HEADER_ATTEMPT: "3",
        names.HEADER_ID: "4711",
        names.HEADER_ORIGIN_EXCHANGE: "shop",
        names.HEADER_ORIGIN_ROUTING_KEY: "",
        names.HEADER_ORIGIN_USER_ID: "bestell-äpp",
        names.HEADER_ORIGIN_EXPIRATION: "5000",
        names.HEADER_CREATION: TRACE,
        names.HEADER_PREVIOUS: TRACE,
        names.HEADER_FIRST_FAILED_AT: 1763999990000,
    }
    assert Decoded(EMPTY) == read(headers)
    hop = Hop(
        exchange="shop",
        user_id="bestell-äpp",
        expiration="5000",
        creation=TRACE,
        previous=TRACE,
        first_failed_at=1763999990000,
    )
    assert Decoded(Waybill(attempt=3, id="4711", hop=hop)) == returned(headers)


@pytest.mark.parametrize("attempt", ["0", "-1", "2.5", LARGEST_COUNT + 1, True, []])
def test_attempt_that_makes_no_sense_is_the_first(attempt: object) -> None:
    """A broken attempt number costs a few more runs, never the message."""
    waybill, invalid, _ = returned({names.HEADER_ATTEMPT: attempt})
    assert (1, Hop(), (names.HEADER_ATTEMPT,)) == (waybill.attempt, waybill.hop, invalid)


def test_hop_facts_of_a_message_that_was_put_off() -> None:
    """When it may run, and how often it was put off, in any integer type; without them at once and never."""
    for moment, count in (("1763999990000", "3"), (1763999990000, 3)):
        hop = returned({names.HEADER_NOT_BEFORE: moment, names.HEADER_DEFERRALS: count}).waybill.hop
        assert Hop(not_before=1763999990000, deferrals=3) == hop
    assert (None, 0) == (Hop().not_before, Hop().deferrals)


@pytest.mark.parametrize("name", [names.HEADER_NOT_BEFORE, names.HEADER_DEFERRALS])
@pytest.mark.parametrize("value", ["-1", "soon", "9" * 16, True, [1], b"\xff", 1.5, {"at": 1}])
def test_put_off_facts_that_make_no_sense_are_absent(name: str, value: object) -> None:
    """A message with a broken wait runs at once; one with a broken count starts to count again."""
    assert Decoded(Waybill(hop=Hop()), (name,)) == returned({name: value})


def test_more_deferrals_than_anybody_counts_are_none() -> None:
    """A count that could only be made up is not believed."""
    assert Hop() == returned({names.HEADER_DEFERRALS: LARGEST_COUNT + 1}).waybill.hop


@pytest.mark.parametrize("name", ["ä" * 128, "a" * 256, "\udcff", b"shop", 5])
def test_name_that_no_broker_knows_is_absent(name: object) -> None:
    """An origin longer than AMQP's 255 octets, or one that cannot be written again, is read as none."""
    waybill, invalid, _ = returned({names.HEADER_ORIGIN_EXCHANGE: name})
    assert (Hop(), (names.HEADER_ORIGIN_EXCHANGE,)) == (waybill.hop, invalid)


def test_identity_is_the_message_id_until_a_copy_says_so() -> None:
    """The id that a message was sent with names it, in any script, and its copies keep the one they carry."""
    assert "4711" == decode(arriving({}, message_id="4711"), {}, now=NOW, belief=BELIEF).waybill.id
    assert "first" == returned({names.HEADER_ID: "first"}, "made up by a client").waybill.id
    assert Decoded(Waybill(id="bestellung-ä", hop=Hop())) == returned({names.HEADER_ID: "bestellung-ä"})
    assert "4711" == returned({names.HEADER_ID: ""}, "4711").waybill.id
    assert read({}).waybill.id is None


def test_identity_comes_beside_what_the_headers_say() -> None:
    """A message id takes nothing away from the end-to-end facts."""
    said = decode(arriving(SAID, message_id="4711"), {}, now=NOW, belief=BELIEF)
    assert Decoded(replace(ALL_SAID, id="4711")) == said


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127 + "a", ""])
def test_longest_and_shortest_name_are_names(name: str) -> None:
    """As long as a broker allows, counted in octets, and the one of the default exchange."""
    assert Decoded(Waybill(hop=Hop(exchange=name))) == returned({names.HEADER_ORIGIN_EXCHANGE: name})


@pytest.mark.parametrize("expiration", ["soon", "", "-1", 1.5])
def test_expiration_that_no_broker_takes_is_absent(expiration: object) -> None:
    """No copy was made of such a message: somebody else has written it."""
    said = returned({names.HEADER_ORIGIN_EXPIRATION: expiration})
    assert Decoded(Waybill(hop=Hop()), (names.HEADER_ORIGIN_EXPIRATION,)) == said


def test_first_attempt_may_say_so() -> None:
    """A message that was put off before its first run comes back as it went."""
    assert Decoded(Waybill(attempt=1, hop=Hop())) == returned({names.HEADER_ATTEMPT: "1"})


def test_what_came_over_another_way_is_judged_as_well() -> None:
    """Facts that make no sense are named, and a clock that is ahead is told, without a delivery too."""
    headers = {
        names.HEADER_DEADLINE: str(round((NOW + 35) * 1000)),
        names.HEADER_TIMEOUT: "5000",
        names.HEADER_RETRIES: "many",
    }
    expected = Decoded(Waybill(deadline=NOW + 5), (names.HEADER_RETRIES,), 30.0)
    assert expected == decode_end_to_end(headers, {}, now=NOW)


def test_deadline_is_only_ever_shortened() -> None:
    """A later deadline changes nothing, an earlier one holds."""
    waybill = Waybill(deadline=NOW, request_id="123456")
    assert waybill is waybill.shortened(None)
    assert waybill is waybill.shortened(NOW)
    assert waybill is waybill.shortened(NOW + 1)
    assert Waybill(deadline=NOW - 1, request_id="123456") == waybill.shortened(NOW - 1)
    assert Waybill(deadline=NOW) == EMPTY.shortened(NOW)


def test_detached_facts_outlive_their_request() -> None:
    """No deadline, no retries, no limit; the request they came from is still known."""
    waybill = Waybill(deadline=NOW, request_id="123456", retries=3, retry_limit=5, id="4711")
    assert Waybill(request_id="123456", id="4711") == waybill.detached()


def test_retry_counts_for_the_message_and_for_the_request() -> None:
    """A retry is one attempt more of this message, and one retry more that the request has cost."""
    assert Waybill(attempt=2, retries=6) == Waybill(retries=5).retried()
