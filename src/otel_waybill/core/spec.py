"""Policies as frozen values: checked when they are made, with the rule and the unit in the message."""

import math
from dataclasses import dataclass, field
from typing import Literal

from otel_waybill.core.backoff import Backoff
from otel_waybill.core.rules import one_of, require

Settle = Literal["return", "handler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a failed message runs again, and how long it waits in between.

    Attributes:
        attempts: runs of one message in all, the first included; 1 or more.
        backoff: the wait after each failed attempt.
        redeliveries: how often the broker may hand out the same message again after consumers died
            with it, before it is parked as a crash loop; 0 or more. Never added to attempts, because
            the broker's count also rises for messages that were only prefetched.

    Raises:
        InvalidPolicy: a number is out of its range.
    """

    attempts: int = 5
    backoff: Backoff = field(default_factory=Backoff)
    redeliveries: int = 20

    def __post_init__(self) -> None:
        require(rule="attempts >= 1", holds=self.attempts >= 1, seen=self.attempts)
        require(rule="redeliveries >= 0", holds=self.redeliveries >= 0, seen=self.redeliveries)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """A policy without its live parts: what the core decides by.

    Attributes:
        retry: None parks on the first failure.
        prefetch: unacknowledged deliveries per consumer, 1 or more; it bounds what is held.
        confirm_timeout: seconds to wait for the broker's confirm of a copy, above 0.
        hold_max: seconds for which a copy that the broker does not confirm is tried again before the
            message is given back, above 0.
        skew_tolerance: seconds by which a deadline may be overrun before it counts, 0 or more; it
            covers clocks that differ between machines.
        max_deadline: seconds; a deadline further away is shortened to it, above 0.
    """

    retry: Retry | None = None
    settle: Settle | None = None
    prefetch: int = 20
    confirm_timeout: float = 5.0
    hold_max: float = 300.0
    skew_tolerance: float = 1.0
    max_deadline: float = 86_400.0

    def __post_init__(self) -> None:
        require(rule="prefetch >= 1 (0 is unlimited, and holding must be bounded)",
                holds=self.prefetch >= 1, seen=self.prefetch)
        for name in ("confirm_timeout", "hold_max", "max_deadline"):
            value = getattr(self, name)
            require(rule=f"0 < {name} < inf (seconds)", holds=0 < value < math.inf, seen=value)
        require(rule="0 <= skew_tolerance < inf (seconds)",
                holds=0 <= self.skew_tolerance < math.inf, seen=self.skew_tolerance)
        if self.settle is not None:
            one_of("settle", self.settle, ("return", "handler"))
