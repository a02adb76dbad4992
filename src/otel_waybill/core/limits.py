"""How many runs at a time, and how many in a while, as frozen values."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Final

from otel_waybill.core.delivery import Delivery
from otel_waybill.core.headers import number, text
from otel_waybill.core.rules import check_numbers, require
from otel_waybill.core.waybill import Waybill

BY_ROUTING_KEY: Final = "routing_key"
BY_HEADER: Final = "header:"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How many runs may start in a while; the others wait, unacknowledged and in order.

    Attributes:
        runs: how many, 1 or more.
        per: in how many seconds, above 0.
        burst: how many of them may start at once after a quiet while; 1 or more, all of *runs* by default.
        by: None limits the queue as a whole; ``"routing_key"``, or ``"header:NAME"``, each value of it for
            itself. Messages without that header share one limit.

    Raises:
        InvalidPolicy: a value is out of its range.
    """

    runs: int
    _: KW_ONLY
    per: float = 1.0
    burst: int | None = None
    by: str | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        require(rule="runs >= 1", holds=self.runs >= 1, seen=self.runs)
        require(rule="0 < per < inf (seconds)", holds=0 < self.per < math.inf, seen=self.per)
        require(
            rule="burst >= 1, or None for all of the runs",
            holds=self.burst is None or self.burst >= 1,
            seen=self.burst,
        )
        check_key(self.by)


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """How many handlers may run at the same time; the other deliveries wait, unacknowledged and in order.

    Attributes:
        runs: how many, 1 or more.
        by: None limits the queue as a whole; ``"routing_key"``, or ``"header:NAME"``, each value of it for
            itself. Messages without that header share one limit.

    Raises:
        InvalidPolicy: a value is out of its range.
    """

    runs: int
    _: KW_ONLY
    by: str | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        require(rule="concurrency >= 1", holds=self.runs >= 1, seen=self.runs)
        check_key(self.by)


def check_key(by: str | None) -> None:
    """Raise InvalidPolicy unless *by* tells by what to limit."""
    require(
        rule="by 'routing_key' or 'header:NAME', or None for the whole queue",
        holds=by is None or by == BY_ROUTING_KEY or (by.startswith(BY_HEADER) and by != BY_HEADER),
        seen=by,
    )


def key_of(by: str | None, delivery: Delivery, waybill: Waybill) -> str | None:
    """Return the value of *delivery* by which it is limited, None if it shares the limit of the queue."""
    if by is None:
        return None
    if by == BY_ROUTING_KEY:
        return delivery.routing_key if waybill.hop is None else waybill.hop.routing_key
    value = delivery.headers.get(by.removeprefix(BY_HEADER))
    words = text(value)
    counted = number(value) if words is None else None
    return words if counted is None else str(counted)
