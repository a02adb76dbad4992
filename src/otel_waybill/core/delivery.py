"""What a driver tells the core about a message, and what it is told in the end."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Instant(NamedTuple):
    """One moment on both clocks, read together.

    The monotonic clock measures waits and decides deadlines; the wall clock is only for what other
    machines read.
    """

    monotonic: float
    wall: float


class Delivery(NamedTuple):
    """One delivery as it came from the broker, before anything in it is believed."""

    queue: str | None
    exchange: str
    routing_key: str
    headers: Mapping[str, object]
    message_id: str | None = None
    user_id: str | None = None
    expiration: str | None = None
    redelivered: bool = False
    consumer: str | None = None


class Result(StrEnum):
    """What became of a delivery; the value of ``waybill.outcome`` on its span."""

    HANDLED = "handled"
    RETRIED = "retried"
    DEFERRED = "deferred"
    PARKED = "parked"
    DROPPED = "dropped"
    GIVEN_BACK = "given-back"
    OPEN = "open"


class Reason(StrEnum):
    """Why a message was parked, in its header ``waybill-reason``."""

    PERMANENT = "permanent"
    MAX_ATTEMPTS = "max-attempts"
    MAX_ELAPSED = "max-elapsed"
    RETRY_LIMIT = "retry-limit"
    DEADLINE = "deadline"
    DEADLINE_BEFORE_RETRY = "deadline-before-retry"
    CRASH_LOOP = "crash-loop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one delivery ended under a policy.

    Attributes:
        result: what became of it.
        attempt: which run of the message this was, from 1; the attempt that would have been next when
            the handler was not started.
        reason: why it was parked, else None.
        delay: seconds until the next attempt when it was retried or put off, else None.
        error: what the handler raised, if it did.
    """

    result: Result
    attempt: int
    reason: Reason | None = None
    delay: float | None = None
    error: BaseException | None = None

    @property
    def final(self) -> bool:
        """Whether the message has come to its end: handled, parked or dropped."""
        return self.result in {Result.HANDLED, Result.PARKED, Result.DROPPED}
