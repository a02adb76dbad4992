"""A token bucket: so many per second on average, and a burst of so many at once."""

import math
from typing import Final

from otel_waybill.core.rules import require

# Seconds. A wait below this is the rounding of sums, not a wait; it is never carried over.
_ROUNDING: Final = 1e-6


class TokenBucket:
    """A bucket of *burst* tokens, full at first, refilled at *rate* tokens per second.

    Its whole state is the moment at which it will be full again, so idle time costs nothing.

    Raises:
        InvalidPolicy: *rate* or *burst* is not above 0 and finite.
    """

    def __init__(self, *, rate: float, burst: float) -> None:
        require(rule="0 < rate < inf (tokens per second)", holds=0 < rate < math.inf, seen=rate)
        require(rule="0 < burst < inf (tokens)", holds=0 < burst < math.inf, seen=burst)
        self._rate = rate
        self._burst = burst
        self._full_at = -math.inf

    def take(self, now: float, tokens: float = 1.0) -> float:
        """Take *tokens* and return 0.0, or take nothing and return the seconds until they will be there.

        Raises:
            InvalidPolicy: *tokens* is not above 0, or more than the bucket can ever hold.
        """
        require(rule=f"0 < tokens <= {self._burst} (burst)", holds=0 < tokens <= self._burst, seen=tokens)
        full_at = max(self._full_at, now) + tokens / self._rate
        wait = full_at - self._burst / self._rate - now
        if wait > _ROUNDING:
            return wait
        self._full_at = full_at
        return 0.0

    def give(self, tokens: float) -> None:
        """Put *tokens*, 0 or more, into the bucket; what does not fit is lost."""
        require(rule="tokens >= 0", holds=tokens >= 0, seen=tokens)
        self._full_at -= tokens / self._rate

    def full(self, now: float) -> bool:
        """Return whether no token is missing."""
        return now >= self._full_at
