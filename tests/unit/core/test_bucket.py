"""The token bucket: so many per second, and a burst."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_waybill.core.bucket import TokenBucket
from unit.core.objections import objection


def test_full_at_first_then_as_fast_as_the_rate() -> None:
    """A burst goes through at once; the next has to wait for its token and is told how long."""
    bucket = TokenBucket(rate=2.0, burst=3.0)
    assert [0.0, 0.0, 0.0] == [bucket.take(100.0) for _ in range(3)]
    assert 0.5 == bucket.take(100.0)
    assert 0.25 == bucket.take(100.25)
    assert 0.0 == bucket.take(100.5)


def test_a_refusal_takes_nothing() -> None:
    """Asking again and again does not push the answer away."""
    bucket = TokenBucket(rate=1.0, burst=1.0)
    bucket.take(0.0)
    assert [1.0, 1.0, 1.0] == [bucket.take(0.0) for _ in range(3)]


def test_microsecond_is_no_wait() -> None:
    """What may be the rounding of a sum makes nobody wait; twice as much does."""
    bucket = TokenBucket(rate=1e6, burst=1.0)
    assert [0.0, 0.0] == [bucket.take(0.0) for _ in range(2)]
    assert 2e-6 == pytest.approx(bucket.take(0.0))


def test_idle_time_fills_no_more_than_the_burst() -> None:
    """After a quiet night there is one burst, not a night's worth."""
    bucket = TokenBucket(rate=10.0, burst=2.0)
    assert [0.0, 0.0] == [bucket.take(86_400.1) for _ in range(2)]
    assert pytest.approx(0.1) == bucket.take(86_400.1)


def test_given_tokens_can_be_taken_at_once_up_to_the_burst() -> None:
    """What comes back is available, and what does not fit is lost."""
    bucket = TokenBucket(rate=1.0, burst=2.0)
    bucket.take(0.0, 2.0)
    bucket.give(1.0)
    assert [0.0, 1.0] == [bucket.take(0.0), bucket.take(0.0)]
    bucket.give(50.0)
    assert [0.0, 1.0] == [bucket.take(0.0, 2.0), bucket.take(0.0)]


@given(
    st.floats(0.1, 1000),
    st.integers(1, 50),
    st.lists(st.floats(0, 10), min_size=1, max_size=50),
)
def test_never_more_than_burst_and_rate_allow(rate: float, burst: int, gaps: list[float]) -> None:
    """From any moment on, no more goes through than a full bucket and what has dripped in since."""
    bucket = TokenBucket(rate=rate, burst=burst)
    now = 0.0
    taken: list[float] = []
    for gap in gaps:
        now += gap
        while bucket.take(now) == 0.0:
            taken.append(now)
    for i, start in enumerate(taken):
        assert len(taken) - i <= burst + rate * (now - start + 2e-6)


@given(st.floats(0.1, 1000), st.floats(0, 1e6), st.integers(1, 20))
def test_coming_back_when_told_gets_in(rate: float, start: float, callers: int) -> None:
    """Whoever waits as long as told is let in, whatever the clock shows."""
    bucket = TokenBucket(rate=rate, burst=1.0)
    now = start
    for _ in range(callers):
        now += bucket.take(now)
        bucket.take(now)
        assert 0.0 < bucket.take(now)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, math.nan])
def test_refuses_a_rate_or_burst_outside_its_range(wrong: float) -> None:
    """A bucket that never fills, or cannot hold anything, is an error that names the unit."""
    assert f"need 0 < rate < inf (tokens per second), got {wrong}" == objection(
        lambda: TokenBucket(rate=wrong, burst=1.0)
    )
    assert f"need 0 < burst < inf (tokens), got {wrong}" == objection(
        lambda: TokenBucket(rate=1.0, burst=wrong)
    )


@pytest.mark.parametrize("tokens", [0.0, -1.0, 3.1, math.nan])
def test_refuses_to_wait_for_what_never_comes(tokens: float) -> None:
    """More tokens than the bucket holds would wait without end."""
    bucket = TokenBucket(rate=1.0, burst=3.0)
    assert f"need 0 < tokens <= 3.0 (burst), got {tokens}" == objection(lambda: bucket.take(0.0, tokens))


def test_refuses_to_give_less_than_nothing() -> None:
    """Giving is not another way of taking; giving nothing is nothing."""
    bucket = TokenBucket(rate=1.0, burst=3.0)
    assert "need tokens >= 0, got -1.0" == objection(lambda: bucket.give(-1.0))
    bucket.give(0.0)
    assert bucket.full(0.0)


def test_full_again() -> None:
    """A bucket is full when all that was taken has flowed back, and not a moment before."""
    bucket = TokenBucket(rate=2.0, burst=3.0)
    assert bucket.full(0.0)
    bucket.take(10.0, 3.0)
    assert not bucket.full(11.4)
    assert bucket.full(11.5)
    bucket.take(20.0)
    bucket.give(1.0)
    assert bucket.full(20.0)
    bucket.take(30.0)
    bucket.give(0.5)
    assert not bucket.full(30.0)
    assert bucket.full(30.25)
