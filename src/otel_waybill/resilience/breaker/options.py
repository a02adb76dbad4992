"""The settings of a breaker by name, and those that make one behave like hystrix."""

from collections.abc import Callable
from typing import TypedDict, Unpack

from otel_waybill.core.match import Match


class BreakerOptions(TypedDict, total=False):
    """What `CircuitBreaker` takes beside its name."""

    window: float | None
    window_calls: int | None
    minimum_calls: int
    failure_rate: float
    slow_after: float | None
    slow_rate: float
    failures: Match
    ignored: Match
    open_for: float
    open_ceiling: float
    open_jitter: float
    probes: int
    probe_success: float
    probe_timeout: float
    defer: bool
    clock: Callable[[], float]
    chance: Callable[[], float]


def hystrix(**chosen: Unpack[BreakerOptions]) -> BreakerOptions:
    """Return what was *chosen* over the numbers of hystrix-go (``settings.go``, ``circuit.go``)."""
    sleep_window = chosen.get("open_for", 5.0)
    defaults: BreakerOptions = {
        "minimum_calls": 20,
        "failure_rate": 0.5,
        "open_for": sleep_window,
        "open_ceiling": sleep_window,
        "open_jitter": 0.0,
        "probes": 1,
        "probe_success": 1.0,
    }
    if "window_calls" not in chosen:
        defaults["window"] = 10.0
    return {**defaults, **chosen}
