"""The windows: what counts, and until when."""

import math

from hypothesis import given
from hypothesis import strategies as st

from otel_waybill.core.window import CountWindow, TimeWindow

# Eighths of a second are exact in floating point, so edges are hit and not missed by rounding.
steps = st.lists(st.tuples(st.integers(0, 100), st.booleans()), max_size=60)


def test_empty_at_first() -> None:
    """Nothing has happened yet."""
    assert (0, 0, 0) == TimeWindow(10.0).totals(0.0)


def test_counts_calls_and_failures() -> None:
    """Failures are calls too."""
    window = TimeWindow(10.0)
    window.add(1.0, failed=True, slow=False)
    window.add(1.5, failed=False, slow=True)
    window.add(3.0, failed=True, slow=False)
    assert (3, 2, 1) == window.totals(3.0)


def test_a_call_leaves_with_its_slice() -> None:
    """Of a window of 10 s in ten slices, what ended in the first second is gone at 10 s and not before."""
    window = TimeWindow(10.0)
    window.add(0.0, failed=True, slow=False)
    window.add(0.875, failed=True, slow=False)
    window.add(1.0, failed=False, slow=True)
    assert (3, 2, 1) == window.totals(9.999)
    assert (1, 0, 1) == window.totals(10.0)
    assert (0, 0, 0) == window.totals(11.0)


@given(steps)
def test_a_call_counts_for_at_most_the_window_and_more_than_all_but_one_slice(
    eighths: list[tuple[int, bool]],
) -> None:
    """Nothing older than the window is counted, and nothing younger than nine tenths of it is missed."""
    window = TimeWindow(10.0)
    now = 0.0
    past: list[tuple[float, bool]] = []
    for step, failed in eighths:
        now += step / 8
        window.add(now, failed=failed, slow=not failed)
        past.append((now, failed))
        calls, failures, slow = window.totals(now)
        young = [failed for at, failed in past if now - at <= 9.0]
        valid = [failed for at, failed in past if now - at < 10.0]
        assert len(young) <= calls <= len(valid)
        assert sum(young) <= failures <= sum(valid)
        exact = [failed for at, failed in past if math.floor(at) > math.floor(now) - 10]
        assert (len(exact), sum(exact), len(exact) - sum(exact)) == (calls, failures, slow)


def test_time_may_stand_still_or_step_back() -> None:
    """Threads that race for the lock can pass a slightly earlier time; it is taken for the latest."""
    window = TimeWindow(10.0)
    window.add(5.0, failed=True, slow=False)
    window.add(5.0, failed=True, slow=False)
    window.add(3.0, failed=False, slow=True)
    assert (3, 2, 1) == window.totals(4.0)
    assert (3, 2, 1) == window.totals(14.0)
    assert (0, 0, 0) == window.totals(15.0)


def test_nothing_is_stored_per_call() -> None:
    """A busy breaker needs no more memory than an idle one, whatever order the times come in."""
    window = TimeWindow(10.0)
    for now in [1.0, 2.0] * 1000:
        window.add(now, failed=True, slow=False)
    assert 2 == len(window._slices)


def test_time_may_start_below_zero() -> None:
    """Where a monotonic clock starts is nobody's promise."""
    window = TimeWindow(1.0, slices=2)
    window.add(-0.25, failed=True, slow=False)
    assert (1, 1, 0) == window.totals(0.25)
    assert (0, 0, 0) == window.totals(0.5)


def test_slow_calls_are_counted_apart() -> None:
    """A call may have failed, been slow, both or neither."""
    for window in (TimeWindow(10.0), CountWindow(4)):
        for failed in (False, True):
            for slow in (False, True):
                window.add(1.0, failed=failed, slow=slow)
        assert (4, 2, 2) == window.totals(1.0)


@given(st.integers(1, 20), st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_the_last_calls_count_however_long_ago(most: int, flags: list[tuple[bool, bool]]) -> None:
    """A window of calls holds as many and no more, and knows no time."""
    window = CountWindow(most)
    for i, (failed, slow) in enumerate(flags):
        window.add(-1e6 * i, failed=failed, slow=slow)
        last = flags[: i + 1][-most:]
        assert (len(last), sum(f for f, _ in last), sum(s for _, s in last)) == window.totals(math.inf)
    assert most >= len(window._last)
