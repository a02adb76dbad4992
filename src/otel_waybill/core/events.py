"""What happened, as frozen records for whoever wants to know; and the shape of such a listener."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from otel_waybill.core.delivery import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerChanged:
    """A circuit breaker followed an entry of its transition table.

    Attributes:
        breaker: its name.
        before: the state it was in.
        after: the state it is in now; the same as *before* where only its counts start afresh, as when
            one that is only measured would have opened.
        trigger: why.
    """

    breaker: str
    before: str
    after: str
    trigger: str


class CallOutcome(StrEnum):
    """What became of one call that asked a circuit breaker; exactly one of these."""

    SUCCESS = "success"
    SLOW = "slow"  # succeeded, but took too long
    FAILURE = "failure"
    IGNORED = "ignored"  # ended in a way that says nothing about the dependency
    REFUSED = "short-circuited"  # did not run


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerCalled:
    """A call through a circuit breaker ended, or was refused."""

    breaker: str
    outcome: CallOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A delivery begins to wait, unacknowledged and uncounted, for a breaker or a limit."""

    queue: str | None
    breaker: str | None = None
    limit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """A delivery that was held waits no longer: it runs, is parked or put off, or is gone."""

    queue: str | None
    breaker: str | None = None
    limit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """A handler is about to be called; *remaining* seconds are left of the deadline, None without one."""

    queue: str | None
    remaining: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """A handler has returned, raised or been stopped."""

    queue: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """A copy is confirmed and routed, *seconds* after it was first sent."""

    queue: str | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unconfirmed:
    """A copy was not confirmed and routed; the delivery is kept and the copy is tried again."""

    queue: str | None
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A delivery reached its end."""

    queue: str | None
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadersInvalid:
    """Facts of ours arrived in a shape that is not theirs, and were read as absent."""

    queue: str | None
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSkewed:
    """A message says that it was sent later than now: its sender's clock is *seconds* ahead, or more."""

    queue: str | None
    seconds: float


BreakerEvent = BreakerCalled | BreakerChanged
Event = (
    BreakerEvent
    | Held
    | Released
    | RunStarted
    | RunEnded
    | Confirmed
    | Unconfirmed
    | Ended
    | HeadersInvalid
    | ClockSkewed
)


class Sink(Protocol):
    """Something that listens to events; it is called on the thread where they happen and must be quick."""

    def __call__(self, event: Event, /) -> None:
        """Take note of *event*."""
