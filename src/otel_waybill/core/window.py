"""Counts of calls and failures over the last seconds.

Time is cut into slices, and a slice leaves as a whole: a call is counted for at most the window, and for
more than the window less one slice. Nothing is stored per call.
"""

import math
from collections import deque
from typing import NamedTuple


class Totals(NamedTuple):
    """How many calls ended within the window, and how many of them failed."""

    calls: int
    failures: int


class Window:
    """Counts over the last *seconds*, in *slices* equal parts.

    Time is whatever monotonic seconds the caller passes in. A time before one already seen, as threads
    that race for a lock can produce, is taken for the latest.
    """

    def __init__(self, seconds: float, *, slices: int = 10) -> None:
        self._width = seconds / slices
        self._slices = slices
        self._latest = -math.inf
        self._counts: deque[tuple[float, Totals]] = deque()  # (number of the slice, its totals), ascending

    def add(self, now: float, *, failed: bool) -> None:
        """Count one call that ended at *now*."""
        self._advance(now)
        calls, failures = self._counts.pop()[1] if self._is_current() else Totals(0, 0)
        self._counts.append((self._latest, Totals(calls + 1, failures + failed)))

    def totals(self, now: float) -> Totals:
        """Return what the window that ends at *now* holds."""
        self._advance(now)
        return Totals(
            sum(counts.calls for _, counts in self._counts),
            sum(counts.failures for _, counts in self._counts),
        )

    def _is_current(self) -> bool:
        return bool(self._counts) and self._counts[-1][0] == self._latest

    def _advance(self, now: float) -> None:
        self._latest = max(self._latest, math.floor(now / self._width))
        while self._counts and self._counts[0][0] <= self._latest - self._slices:
            self._counts.popleft()
