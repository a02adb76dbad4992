"""The window: what counts, and until when."""

import math

from hypothesis import given
from hypothesis import strategies as st

from otel_waybill.core.window import Window

# Eighths of a second are exact in floating point, so edges are hit and not missed by rounding.
steps = st.lists(st.tuples(st.integers(0, 100), st.booleans()), max_size=60)


def test_empty_at_first() -> None:
    """Nothing has happened yet."""
    assert (0, 0) == Window(10.0).totals(0.0)


def test_counts_calls_and_failures() -> None:
    """Failures are calls too."""
    window = Window(10.0)
    window.add(1.0, failed=True)
    window.add(1.5, failed=False)
    window.add(3.0, failed=True)
    assert (3, 2) == window.totals(3.0)


def test_a_call_leaves_with_its_slice() -> None:
    """Of a window of 10 s in ten slices, what ended in the first second is gone at 10 s and not before."""
    window = Window(10.0)
    window.add(0.0, failed=True)
    window.add(0.875, failed=True)
    window.add(1.0, failed=False)
    assert (3, 2) == window.totals(9.999)
    assert (1, 0) == window.totals(10.0)
    assert (0, 0) == window.totals(11.0)


@given(steps)
def test_a_call_counts_for_at_most_the_window_and_more_than_all_but_one_slice(
    eighths: list[tuple[int, bool]],
) -> None:
    """Nothing older than the window is counted, and nothing younger than nine tenths of it is missed."""
    window = Window(10.0)
    now = 0.0
    past: list[tuple[float, bool]] = []
    for step, failed in eighths:
        now += step / 8
        window.add(now, failed=failed)
        past.append((now, failed))
        calls, failures = window.totals(now)
        young = [failed for at, failed in past if now - at <= 9.0]
        valid = [failed for at, failed in past if now - at < 10.0]
        assert len(young) <= calls <= len(valid)
        assert sum(young) <= failures <= sum(valid)
        exact = [failed for at, failed in past if math.floor(at) > math.floor(now) - 10]
        assert (len(exact), sum(exact)) == (calls, failures)


def test_time_may_stand_still_or_step_back() -> None:
    """Threads that race for the lock can pass a slightly earlier time; it is taken for the latest."""
    window = Window(10.0)
    window.add(5.0, failed=True)
    window.add(5.0, failed=True)
    window.add(3.0, failed=False)
    assert (3, 2) == window.totals(4.0)
    assert (3, 2) == window.totals(14.0)
    assert (0, 0) == window.totals(15.0)


def test_nothing_is_stored_per_call() -> None:
    """A busy breaker needs no more memory than an idle one, whatever order the times come in."""
    window = Window(10.0)
    for now in [1.0, 2.0] * 1000:
        window.add(now, failed=True)
    assert 2 == len(window._counts)


def test_time_may_start_below_zero() -> None:
    """Where a monotonic clock starts is nobody's promise."""
    window = Window(1.0, slices=2)
    window.add(-0.25, failed=True)
    assert (1, 1) == window.totals(0.25)
    assert (0, 0) == window.totals(0.5)
