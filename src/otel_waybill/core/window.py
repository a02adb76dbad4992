"""Counts of calls, failures and slow calls: over the last seconds, or over the last calls."""

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Totals(NamedTuple):
    """How many calls a window holds, how many of them failed, and how many were slow."""

    calls: int
    failures: int
    slow: int


class Window(Protocol):
    """What a breaker counts in. Time is whatever monotonic seconds the caller passes in."""

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        """Count one call that ended at *now*."""

    def totals(self, now: float) -> Totals:
        """Return what the window that ends at *now* holds."""


@dataclass(slots=True, eq=False)
class _Slice:
    number: float
    calls: int = 0
    failures: int = 0
    slow: int = 0


class TimeWindow:
    """Counts over the last *seconds*, in *slices* equal parts; nothing is stored per call.

    A slice leaves as a whole: a call is counted for at most the window, and for more than the window less
    one slice. A time before one already seen, as threads that race for a lock can produce, is taken for
    the latest.
    """

    def __init__(self, seconds: float, *, slices: int = 10) -> None:
        self._width = seconds / slices
        self._most = slices
        self._slices = deque([_Slice(-math.inf)])  # ascending, and never none

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        """Count one call that ended at *now*."""
        latest = self._latest(now)
        latest.calls += 1
        latest.failures += failed
        latest.slow += slow

    def totals(self, now: float) -> Totals:
        """Return what the window that ends at *now* holds."""
        self._latest(now)
        return Totals(
            sum(each.calls for each in self._slices),
            sum(each.failures for each in self._slices),
            sum(each.slow for each in self._slices),
        )

    def _latest(self, now: float) -> _Slice:
        """Return the slice of *now*, and forget those that have left the window."""
        number = math.floor(now / self._width)
        latest = self._slices[-1]
        if number > latest.number:
            latest = _Slice(number)
            self._slices.append(latest)
            while self._slices[0].number <= number - self._most:
                self._slices.popleft()
        return latest


class CountWindow:
    """Counts over the last *calls*, however long ago they were; it stores as many pairs of flags."""

    def __init__(self, calls: int) -> None:
        self._last: deque[tuple[bool, bool]] = deque(maxlen=calls)  # (failed, slow), oldest first
        self._failures = self._slow = 0

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        """Count one call; *now* does not matter."""
        del now
        if len(self._last) == self._last.maxlen:
            forgotten_failed, forgotten_slow = self._last[0]
            self._failures -= forgotten_failed
            self._slow -= forgotten_slow
        self._last.append((failed, slow))
        self._failures += failed
        self._slow += slow

    def totals(self, now: float) -> Totals:
        """Return what the window holds; *now* does not matter."""
        del now
        return Totals(len(self._last), self._failures, self._slow)
