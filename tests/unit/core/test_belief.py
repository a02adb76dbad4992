"""Belief: no clock that is wrong and no liar gives work more time than there is."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_waybill.core.belief import (
    BELIEF,
    LARGEST_SKEW,
    Belief,
    Claim,
    Judged,
    Trust,
    Trusted,
    judge,
    trusting,
)
from otel_waybill.core.spec import PolicySpec
from unit.core.objections import objection

NOW = 1_764_000_000.0
MILLISECOND = 0.001

largest = 10**15 - 1
numbers = st.integers(0, largest) | st.integers(1_763_000_000_000, 1_765_000_000_000)
claims = st.builds(Claim, numbers, st.none() | numbers | st.integers(0, 10_000))
beliefs = st.builds(Belief, skew_tolerance=st.floats(0, 3600), max_deadline=st.floats(0.001, 86_400))


def claimed(left: float, timeout: float | None) -> Claim:
    """A message with so many seconds left by our clock, and so many when it was sent."""
    return Claim(round((NOW + left) * 1000), None if timeout is None else round(timeout * 1000))


@pytest.mark.parametrize(
    ("left", "timeout", "expected", "skew"),
    [
        (5.0, 5.0, 5.0, 0),  # clocks agree
        (2.0, 5.0, 2.0, 0),  # it waited for 3 s
        (-90.0, 5.0, -90.0, 0),  # it waited for long
        (6.0, 5.0, 5.0, 0),  # the sender's clock is ahead, within the tolerance
        (6.001, 5.0, 5.0, 0),  # which rounding does not exceed
        (6.5, 5.0, 5.0, 1.5),  # beyond it
        (605.0, 5.0, 5.0, 600.0),  # the largest difference that is corrected
        (606.0, 5.0, None, 601.0),  # a clock that tells no time
        (10**9, 5.0, None, 10**9 - 5),
        (10**9, None, 86_400.0, 0),  # nothing tells a far deadline from a wrong clock
        (10**9, 10**9, 86_400.0, 0),
    ],
)
def test_clock_that_is_ahead_is_noticed(
    left: float, timeout: float | None, expected: float | None, skew: float
) -> None:
    """Only a message from the future proves a difference; its deadline then counts from here."""
    judged = judge(claimed(left, timeout), BELIEF, NOW)
    assert (expected is None) == (judged.deadline is None)
    assert judged.deadline is None or NOW + (expected or 0.0) == judged.deadline
    assert skew == pytest.approx(judged.skew, abs=1e-6)


def test_without_tolerance_every_difference_counts() -> None:
    """0 is allowed: two milliseconds are a difference then, one is rounding."""
    exact = Belief(skew_tolerance=0.0)
    assert 0.002 == pytest.approx(judge(claimed(5.002, 5.0), exact, NOW).skew, abs=1e-6)
    assert Judged(NOW + 5.0) == judge(claimed(5.001, 5.0), exact, NOW)


def test_tolerated_difference_is_never_ignored() -> None:
    """Whoever tolerates an hour means it."""
    assert Judged(NOW + 5.0) == judge(claimed(1805.0, 5.0), Belief(skew_tolerance=3600.0), NOW)


@given(claims, beliefs)
def test_nobody_gets_more_time_than_there_is(claim: Claim, belief: Belief) -> None:
    """Never more than the message claims, than was left when it was sent, than the largest deadline."""
    deadline, skew = judge(claim, belief, NOW)
    assert 0.0 == skew or skew > belief.skew_tolerance
    if deadline is None:
        assert skew > LARGEST_SKEW
        return
    assert deadline <= claim.deadline / 1000
    assert deadline <= NOW + belief.max_deadline
    assert claim.timeout is None or deadline <= NOW + claim.timeout / 1000


@given(
    timeout=st.floats(0, 86_400),
    waited=st.floats(0, 10**6),
    ahead=st.floats(-(10**6), 10**6),
    belief=beliefs,
)
def test_skew_is_never_overstated(timeout: float, waited: float, ahead: float, belief: Belief) -> None:
    """Waiting hides a difference and never makes one up; clocks that are behind do not show."""
    sent = NOW - waited + ahead
    claim = Claim(round((sent + timeout) * 1000), round(timeout * 1000))
    skew = judge(claim, belief, NOW).skew
    assert skew <= max(0.0, ahead - waited) + 2 * MILLISECOND
    if ahead - waited > belief.skew_tolerance + 3 * MILLISECOND:
        assert skew > 0


def test_rounding_is_no_skew() -> None:
    """Deadline and timeout are rounded each by itself: a millisecond proves nothing, two do."""
    belief = Belief(skew_tolerance=0.0)
    assert Judged(0.0) == judge(Claim(1, 0), belief, 0.0)
    assert Judged(0.0, 0.002) == judge(Claim(2, 0), belief, 0.0)


@given(timeout=st.floats(0.1, 3600), ahead=st.floats(0, LARGEST_SKEW))
def test_fast_clock_shortens_no_deadline_of_a_message_that_comes_at_once(
    timeout: float, ahead: float
) -> None:
    """What was left for the sender is left for the receiver, however wrong the sender's clock is."""
    claim = Claim(round((NOW + ahead + timeout) * 1000), round(timeout * 1000))
    assert pytest.approx(NOW + timeout, abs=2 * MILLISECOND) == judge(claim, BELIEF, NOW).deadline


@pytest.mark.parametrize(
    ("trust", "user_id", "expected"),
    [
        ("all", None, True),
        ("all", "shop", True),
        ("none", None, False),
        ("none", "shop", False),
        (frozenset({"shop"}), "shop", True),
        (frozenset({"shop"}), "guest", False),
        (frozenset({"shop"}), None, False),
        (frozenset({"none", "all"}), "all", True),
    ],
)
def test_sender_is_believed_or_not(trust: Trust, user_id: str | None, *, expected: bool) -> None:
    """With a list, only what the broker has validated counts; a message without a user id proves nothing."""
    assert expected is Belief(trust=trust).in_sender(user_id)


@pytest.mark.parametrize("whom", ["all", "none"])
def test_word_for_everybody_and_nobody_is_kept(whom: Trust) -> None:
    """A policy keeps the two words as they are."""
    assert whom == trusting(whom)


@pytest.mark.parametrize("users", [{"shop"}, ["shop"], ("shop",), frozenset({"shop"}), {"shop": 1}.keys()])
def test_any_collection_names_users(users: Trusted) -> None:
    """A list from a file of settings does as well as a set, and changing it later changes nothing."""
    assert frozenset({"shop"}) == trusting(users)


@pytest.mark.parametrize(
    "nonsense",
    ["", "some", "shop", b"all", None, 5, True, [], frozenset(), [""], [5], [["shop"]], {"shop", 5}],
)
def test_what_names_nobody_is_refused(nonsense: object) -> None:
    """A slip in a setting that guards something is an error at once, never silence."""
    whom: Any = nonsense
    expected = f"need trust to be 'all', 'none' or a collection of user ids, at least one, got {whom!r}"
    assert expected == objection(lambda: trusting(whom))
    assert expected == objection(lambda: PolicySpec(trust=whom))


def test_policy_tells_what_it_believes() -> None:
    """What is decoded for a policy is decoded by its own words."""
    assert BELIEF == PolicySpec().belief
    spec = PolicySpec(trust="none", deadline="ignore", skew_tolerance=0.0, max_deadline=60.0)
    assert Belief(trust="none", deadline="ignore", skew_tolerance=0.0, max_deadline=60.0) == spec.belief
