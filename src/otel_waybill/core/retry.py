"""How failed messages run again, as frozen values."""

import math
from dataclasses import dataclass, field
from typing import Final

from otel_waybill.core.backoff import Backoff
from otel_waybill.core.match import Match, check_match
from otel_waybill.core.rules import check_numbers, part, require

REDELIVERIES: Final = 20
"""RabbitMQ 4 drops a message after so many deliveries unless its queue says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget:
    """How many retries a queue may cost in relation to its work, so that retries never become the load.

    The numbers are those of Finagle's ``RetryBudget``. What the budget does not allow is deferred: it comes
    back after the longest wait of the backoff, and that costs it no attempt.

    Attributes:
        ratio: retries allowed for each new message, 0 to 1.
        per_second: retries allowed per second in any case, above 0; ten seconds of them may be saved up.

    Raises:
        InvalidPolicy: a number is out of its range.
    """

    ratio: float = 0.2
    per_second: float = 10.0

    def __post_init__(self) -> None:
        check_numbers(self)
        require(rule="0 <= ratio <= 1", holds=0 <= self.ratio <= 1, seen=self.ratio)
        require(rule="0 < per_second < inf", holds=0 < self.per_second < math.inf, seen=self.per_second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a failed message runs again, and how long it waits in between.

    Rules about exceptions take a class, a tuple of classes, or a function of the exception that returns
    whether it is meant. A function that raises has the message parked with what it raised. An exception
    with a number or a ``timedelta`` as its ``retry_after``, as `RetryAfter` and `CircuitOpen` have,
    chooses the wait in place of the backoff.

    Attributes:
        attempts: runs of one message in all, the first included; 1 or more.
        backoff: the wait after each failed attempt.
        redeliveries: how often the broker may hand out the same message again after consumers died
            with it; the last time it is parked as a crash loop instead of run; 1 or more. Keep it at or
            below the delivery limit of the queue, 20 by default since RabbitMQ 4, at which the broker
            drops the message. Never added to attempts, because the broker's count also rises for messages
            that were only prefetched.
        on: exceptions that are worth another run; any other one is permanent.
        park: exceptions that are permanent although *on* means them: parked at once.
        ignore: exceptions that are no failure: the message counts as handled. Comes before both.
        elapsed: seconds after the first failure beyond which no further run is planned, above 0; None is no
            limit.
        budget: None allows every retry.
        max_deferrals: how often a message may be put off without costing it an attempt, by an empty budget
            or a breaker with ``defer``, 0 or more; after that it costs one.
        in_order: whether a failed message waits where it is, and the rest of its queue behind it, instead
            of at the broker. One message runs at a time. The broker closes the channel of whoever holds a
            message for longer than its ``consumer_timeout``, 30 minutes by default, neighbours included.
        classic_guard: whether a message that a classic queue hands out again, which may have killed its
            consumer, waits for the shortest delay first and pays an attempt. Quorum queues count by
            themselves, see *redeliveries*; on classic ones this costs messages that were only prefetched
            an attempt too.

    Raises:
        InvalidPolicy: a number is out of its range, or a rule can match no exception.
    """

    attempts: int = 5
    backoff: Backoff = field(default_factory=Backoff)
    redeliveries: int = REDELIVERIES
    on: Match = Exception
    park: Match = ()
    ignore: Match = ()
    elapsed: float | None = None
    budget: RetryBudget | None = None
    max_deferrals: int = 100
    in_order: bool = False
    classic_guard: bool = False

    def __post_init__(self) -> None:
        check_numbers(self)
        require(rule="attempts >= 1", holds=self.attempts >= 1, seen=self.attempts)
        require(rule="redeliveries >= 1", holds=self.redeliveries >= 1, seen=self.redeliveries)
        require(rule="max_deferrals >= 0", holds=self.max_deferrals >= 0, seen=self.max_deferrals)
        require(
            rule="0 < elapsed < inf (seconds), or None",
            holds=self.elapsed is None or 0 < self.elapsed < math.inf,
            seen=self.elapsed,
        )
        require(
            rule="no classic_guard beside in_order, under which no message leaves its place",
            holds=not (self.classic_guard and self.in_order),
            seen=(self.classic_guard, self.in_order),
        )
        require(rule="a Backoff", holds=isinstance(self.backoff, Backoff), seen=self.backoff)
        part("budget", self.budget, RetryBudget)
        for name in ("on", "park", "ignore"):
            check_match(name, getattr(self, name))
