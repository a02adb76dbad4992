"""Policies as frozen values: checked when they are made, with the rule and the unit in the message."""

import math
from dataclasses import dataclass, field
from typing import Literal

from otel_waybill.core.backoff import Backoff
from otel_waybill.core.rules import one_of, require
from otel_waybill.core.waybill import LONGEST_DEADLINE

Settle = Literal["return", "handler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a failed message runs again, and how long it waits in between.

    Attributes:
        attempts: runs of one message in all, the first included; 1 or more.
        backoff: the wait after each failed attempt.
        redeliveries: how often the broker may hand out the same message again after consumers died
            with it; the last time it is parked as a crash loop instead of run; 1 or more. Keep it at or
            below the delivery limit of the queue, 20 by default since RabbitMQ 4, at which the broker
            drops the message. Never added to attempts, because the broker's count also rises for messages
            that were only prefetched.

    Raises:
        InvalidPolicy: a number is out of its range.
    """

    attempts: int = 5
    backoff: Backoff = field(default_factory=Backoff)
    redeliveries: int = 20

    def __post_init__(self) -> None:
        require(rule="attempts >= 1", holds=self.attempts >= 1, seen=self.attempts)
        require(rule="redeliveries >= 1", holds=self.redeliveries >= 1, seen=self.redeliveries)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSpec:
    """When a circuit breaker opens, for how long, and what closes it again.

    Attributes:
        name: the dependency, as it appears in telemetry and errors; not empty.
        window: seconds over which calls are counted, above 0.
        minimum_calls: calls in the window below which it never opens, 1 or more.
        failure_rate: share of failed calls that opens it, above 0 and at most 1.
        open_for: seconds for which it first stays open, above 0; doubled each time the probes fail.
        open_ceiling: seconds up to which that grows, at least *open_for*.
        open_jitter: share by which chance makes each open time longer or shorter, 0 or more and below 1,
            so that the replicas of a program do not probe together. Applied after the ceiling.
        probes: calls let in to see whether the dependency is back, 1 or more.
        probe_success: share of the probes that has to succeed to close it, above 0 and at most 1.

    Raises:
        InvalidPolicy: a value is out of its range.
    """

    name: str
    window: float = 10.0
    minimum_calls: int = 20
    failure_rate: float = 0.5
    open_for: float = 5.0
    open_ceiling: float = 60.0
    open_jitter: float = 0.2
    probes: int = 3
    probe_success: float = 0.5

    def __post_init__(self) -> None:
        require(rule="a name for the breaker", holds=bool(self.name), seen=self.name)
        require(rule="0 < window < inf (seconds)", holds=0 < self.window < math.inf, seen=self.window)
        require(rule="minimum_calls >= 1", holds=self.minimum_calls >= 1, seen=self.minimum_calls)
        require(rule="0 < failure_rate <= 1", holds=0 < self.failure_rate <= 1, seen=self.failure_rate)
        require(
            rule="0 < open_for <= open_ceiling < inf (seconds)",
            holds=0 < self.open_for <= self.open_ceiling < math.inf,
            seen=(self.open_for, self.open_ceiling),
        )
        require(rule="0 <= open_jitter < 1", holds=0 <= self.open_jitter < 1, seen=self.open_jitter)
        require(rule="probes >= 1", holds=self.probes >= 1, seen=self.probes)
        require(rule="0 < probe_success <= 1", holds=0 < self.probe_success <= 1, seen=self.probe_success)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """A policy without its live parts: what the core decides by.

    Attributes:
        retry: None parks on the first failure.
        prefetch: unacknowledged deliveries per consumer, 1 or more; it bounds what is held.
        workers: threads in which handlers run on pika; 0 runs them where pika calls them.
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
    workers: int = 0
    confirm_timeout: float = 5.0
    hold_max: float = 300.0
    skew_tolerance: float = 1.0
    max_deadline: float = LONGEST_DEADLINE

    def __post_init__(self) -> None:
        require(
            rule="prefetch >= 1 (0 is unlimited, and holding must be bounded)",
            holds=self.prefetch >= 1,
            seen=self.prefetch,
        )
        require(rule="workers >= 0", holds=self.workers >= 0, seen=self.workers)
        for name in ("confirm_timeout", "hold_max", "max_deadline"):
            value = getattr(self, name)
            require(rule=f"0 < {name} < inf (seconds)", holds=0 < value < math.inf, seen=value)
        require(
            rule="0 <= skew_tolerance < inf (seconds)",
            holds=0 <= self.skew_tolerance < math.inf,
            seen=self.skew_tolerance,
        )
        if self.settle is not None:
            one_of("settle", self.settle, ("return", "handler"))
