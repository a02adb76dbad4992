"""Now, on both clocks."""

import time

from otel_waybill.core.delivery import Instant


def instant() -> Instant:
    """Return the present moment."""
    return Instant(time.monotonic(), time.time())
