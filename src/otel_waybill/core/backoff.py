"""How long to wait before the next attempt.

Pure: nothing here sleeps, reads a clock or draws a random number. The caller passes chance in as *u* and
leaves the waiting to the broker.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from otel_waybill.core.rules import check_numbers, one_of, require

Jitter = Literal["equal", "full", "none"]

LONGEST_DELAY: Final = 31_536_000.0
"""Seconds, a year. Waits past the last rung of the ladder go over it again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits that grow from attempt to attempt, up to a ceiling, spread by chance.

    Attributes:
        first: seconds after the first failed attempt, above 0.
        ceiling: seconds that no wait exceeds, at least *first* and at most 31536000, a year.
        factor: how much longer each wait is than the one before, 1 or more.
        jitter: how much of a wait is left to chance: ``equal`` half of it, ``full`` all of it, ``none``
            nothing. Without any, messages that failed together come back together.

    Raises:
        InvalidPolicy: a number is out of its range, or the word is not one of the three.
    """

    first: float = 1.0
    ceiling: float = 30.0
    factor: float = 2.0
    jitter: Jitter = "equal"

    def __post_init__(self) -> None:
        check_numbers(self)
        require(
            rule="0 < first <= ceiling (seconds)",
            holds=0 < self.first <= self.ceiling,
            seen=(self.first, self.ceiling),
        )
        require(
            rule=f"ceiling <= {LONGEST_DELAY:.0f} (seconds)",
            holds=self.ceiling <= LONGEST_DELAY,
            seen=self.ceiling,
        )
        require(rule="1 <= factor < inf", holds=1 <= self.factor < math.inf, seen=self.factor)
        one_of("jitter", self.jitter, ("equal", "full", "none"))

    def delay(self, attempt: int, u: float) -> float:
        """Return the seconds to wait after *attempt*, counted from 1, has failed.

        *u* in [0, 1) is chance. The ceiling is applied before the jitter, so that messages which have all
        reached it are still spread. With full jitter the wait may be 0.
        """
        whole = self._whole(attempt)
        if self.jitter == "equal":
            return whole / 2 + whole / 2 * u
        if self.jitter == "full":
            return whole * u
        return whole

    def spans(self, attempts: int) -> Iterator[tuple[float, float]]:
        """Yield the shortest and the longest wait, in seconds, after each of *attempts* runs but the last.

        Ends early where the waits no longer grow, so that a very large number of attempts costs nothing.
        """
        previous = 0.0
        for attempt in range(1, attempts):
            whole = self._whole(attempt)
            if whole == previous:
                return
            yield self.delay(attempt, 0.0), whole
            previous = whole

    def _whole(self, attempt: int) -> float:
        try:
            return min(self.ceiling, self.first * self.factor ** (attempt - 1))
        except OverflowError:
            return self.ceiling
