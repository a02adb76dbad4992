"""Policies as frozen values: checked when they are made, with the rule and the unit in the message."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from otel_waybill import names
from otel_waybill.core.belief import (
    LONGEST_DEADLINE,
    SKEW_TOLERANCE,
    Belief,
    Inheritance,
    Trust,
    trusting,
)
from otel_waybill.core.events import CallOutcome
from otel_waybill.core.limits import ConcurrencyLimit, RateLimit
from otel_waybill.core.match import Match, check_match, matches
from otel_waybill.core.retry import Retry
from otel_waybill.core.rules import check_numbers, one_of, require
from otel_waybill.errors import CircuitOpen

Settle = Literal["return", "handler"]
OnExpired = Literal["park", "run", "ack", "fallback"]
TopologyMode = Literal["declare", "passive", "none"]
Describe = Callable[[BaseException], str | None]
"""Puts a failure into words that may be stored with a parked message; None for no words."""

_LONGEST_PARKING: Final = 255 - len(names.PARKING_ANONYMOUS)  # bytes; AMQP's limit for the key made of it

_SMALLEST_PREFETCH: Final = 20
_LARGEST_PREFETCH: Final = 65_535  # basic.qos has 16 bits for it
# One that runs and one that is ready: whoever waits behind a message in its backoff is held all the while.
_IN_ORDER_PREFETCH: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSpec:
    """When a circuit breaker opens, for how long, and what closes it again.

    Attributes:
        name: the dependency, as it appears in telemetry and errors; not empty.
        window: seconds over which calls are counted, above 0; 10 where neither this nor *window_calls* is
            given.
        window_calls: how many of the last calls are counted instead, however long ago they were; 1 or more,
            and not below *minimum_calls*.
        minimum_calls: calls in the window below which it never opens, 1 or more.
        failure_rate: share of failed calls that opens it, above 0 and at most 1.
        slow_after: seconds above which a call is slow, however it ends, above 0; None: no call is.
        slow_rate: share of slow calls that opens it, above 0 and at most 1.
        failures: exceptions that count as failures; a call that raises another one has succeeded, because
            the dependency answered.
        ignored: exceptions, also of those in *failures*, that say nothing about the dependency.
        open_for: seconds for which it first stays open, above 0; doubled each time the probes fail.
        open_ceiling: seconds up to which that grows, at least *open_for*.
        open_jitter: share by which chance makes each open time longer or shorter, 0 or more and below 1,
            so that the replicas of a program do not probe together. Applied after the ceiling.
        probes: calls let in to see whether the dependency is back, 1 or more. A slow one has failed.
        probe_success: share of the probes that has to succeed to close it, above 0 and at most 1.
        probe_timeout: seconds after which a probe that has not ended leaves its place to another, above 0.
        defer: whether a handler that its refusal stops is retried without counting an attempt.

    Raises:
        InvalidPolicy: a value is out of its range.
    """

    name: str
    window: float | None = None
    window_calls: int | None = None
    minimum_calls: int = 20
    failure_rate: float = 0.5
    slow_after: float | None = None
    slow_rate: float = 0.5
    failures: Match = Exception
    ignored: Match = ()
    open_for: float = 5.0
    open_ceiling: float = 60.0
    open_jitter: float = 0.2
    probes: int = 3
    probe_success: float = 0.5
    probe_timeout: float = 60.0
    defer: bool = False

    def __post_init__(self) -> None:
        check_numbers(self)
        require(rule="a name for the breaker", holds=bool(self.name), seen=self.name)
        self._check_window()
        for name in ("slow_after", "probe_timeout"):
            seconds = getattr(self, name)
            holds = seconds is None or 0 < seconds < math.inf
            require(rule=f"0 < {name} < inf (seconds)", holds=holds, seen=seconds)
        for name in ("failure_rate", "slow_rate", "probe_success"):
            share = getattr(self, name)
            require(rule=f"0 < {name} <= 1", holds=0 < share <= 1, seen=share)
        check_match("failures", self.failures)
        check_match("ignored", self.ignored)
        require(
            rule="0 < open_for <= open_ceiling < inf (seconds)",
            holds=0 < self.open_for <= self.open_ceiling < math.inf,
            seen=(self.open_for, self.open_ceiling),
        )
        require(rule="0 <= open_jitter < 1", holds=0 <= self.open_jitter < 1, seen=self.open_jitter)
        require(rule="probes >= 1", holds=self.probes >= 1, seen=self.probes)

    @property
    def longest_open(self) -> float:
        """The most seconds for which it stays open until it asks for a probe."""
        return self.open_ceiling * (1 + self.open_jitter)

    def judge(self, error: BaseException) -> CallOutcome:
        """Return what a call that raised *error* counts as; what a predicate raises passes through.

        An interruption, a cancellation and the refusal of any breaker are ignored whatever the settings
        say: the dependency had no say in them.
        """
        if not isinstance(error, Exception) or isinstance(error, CircuitOpen):
            return CallOutcome.IGNORED
        if matches(self.ignored, error):
            return CallOutcome.IGNORED
        return CallOutcome.FAILURE if matches(self.failures, error) else CallOutcome.SUCCESS

    def _check_window(self) -> None:
        require(
            rule="one of window and window_calls",
            holds=self.window is None or self.window_calls is None,
            seen=(self.window, self.window_calls),
        )
        holds = self.window is None or 0 < self.window < math.inf
        require(rule="0 < window < inf (seconds)", holds=holds, seen=self.window)
        require(rule="minimum_calls >= 1", holds=self.minimum_calls >= 1, seen=self.minimum_calls)
        require(
            rule="minimum_calls <= window_calls, because it would never open",
            holds=self.window_calls is None or self.minimum_calls <= self.window_calls,
            seen=(self.minimum_calls, self.window_calls),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """A policy without its live parts: what the core decides by.

    Attributes:
        retry: None parks on the first failure.
        breaker: the name of the breaker that pauses the consumer, if there is one.
        rate: how many runs may start in a while; None is no limit.
        concurrency: how many handlers may run at the same time; None is no limit but the prefetch.
        single_active: whether the queue has a single active consumer, which leaves it to another one while
            its breaker is open instead of holding.
        fallback: whether there is a substitute for what cannot be handled.
        settle: who acknowledges; None leaves it to where the policy is put.
        on_expired: what becomes of a message whose deadline has passed before its handler started:
            "park" it, "run" the handler without a deadline, "ack" it and so drop it, or "fallback".
        prefetch: unacknowledged deliveries per consumer, 1 to 65535; it bounds what is held. None: twice
            the concurrency or the workers, at least 20; 2 where the order is kept.
        workers: threads in which handlers run on pika; 0 runs them where pika calls them.
        confirm_timeout: seconds to wait for the broker's confirm of a copy, above 0.
        hold_max: seconds, above 0, for which a delivery is held because of a breaker or a rate before it
            is put off through the broker, and for which a copy that the broker does not confirm is tried
            again before the message is given back.
        skew_tolerance: seconds by which a deadline may be overrun before it counts, 0 or more; it
            covers clocks that differ between machines.
        max_deadline: seconds; a deadline further away is shortened to it, above 0.
        trust: whose end-to-end facts are believed.
        deadline: whether a deadline that arrives is taken over.
        refuse_publish: whether a handler may publish no more once its deadline has passed.
        topology: what is done at the broker when consuming starts: "declare" what is needed, be "passive"
            and only check that it exists, or "none".
        parking: the queue for what cannot be handled, 1 to 237 bytes; None is ``<queue>.parked``.
        describe: called with what a handler raised; returns what a parked message tells of it.
    """

    retry: Retry | None = None
    breaker: str | None = None
    rate: RateLimit | None = None
    concurrency: ConcurrencyLimit | None = None
    single_active: bool = False
    fallback: bool = False
    settle: Settle | None = None
    on_expired: OnExpired = "park"
    prefetch: int | None = None
    workers: int = 0
    confirm_timeout: float = 5.0
    hold_max: float = 300.0
    skew_tolerance: float = SKEW_TOLERANCE
    max_deadline: float = LONGEST_DEADLINE
    trust: Trust = "all"
    deadline: Inheritance = "inherit"
    refuse_publish: bool = False
    topology: TopologyMode = "declare"
    parking: str | None = None
    describe: Describe = str

    def __post_init__(self) -> None:
        check_numbers(self)
        require(
            rule=(
                f"1 <= prefetch <= {_LARGEST_PREFETCH} (0 is unlimited, and holding must be bounded), or None"
            ),
            holds=self.prefetch is None or 1 <= self.prefetch <= _LARGEST_PREFETCH,
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
            one_of("settle", self.settle, get_args(Settle))
        one_of("on_expired", self.on_expired, get_args(OnExpired))
        one_of("deadline", self.deadline, get_args(Inheritance))
        trusting(self.trust)
        one_of("topology", self.topology, get_args(TopologyMode))
        require(
            rule=f"a name of 1 to {_LONGEST_PARKING} bytes for the parking queue",
            holds=self.parking is None or 1 <= len(self.parking.encode()) <= _LONGEST_PARKING,
            seen=self.parking,
        )
        require(
            rule="a fallback for on_expired='fallback'",
            holds=self.fallback or self.on_expired != "fallback",
            seen=self.fallback,
        )
        require(
            rule="no concurrency beside in_order, which runs one message at a time",
            holds=self.concurrency is None or not self.in_order,
            seen=self.concurrency,
        )

    @property
    def belief(self) -> Belief:
        """How much of what arrives is believed."""
        return Belief(
            trust=self.trust,
            deadline=self.deadline,
            skew_tolerance=self.skew_tolerance,
            max_deadline=self.max_deadline,
        )

    @property
    def in_order(self) -> bool:
        """Whether a message that failed keeps those behind it waiting."""
        return self.retry is not None and self.retry.in_order

    @property
    def prefetch_count(self) -> int:
        """How many unacknowledged deliveries to ask the broker for."""
        if self.prefetch is not None:
            return self.prefetch
        if self.in_order:
            return _IN_ORDER_PREFETCH
        concurrency = 0 if self.concurrency is None else self.concurrency.runs
        return min(max(_SMALLEST_PREFETCH, 2 * concurrency, 2 * self.workers), _LARGEST_PREFETCH)
