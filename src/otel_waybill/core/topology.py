"""What a policy needs at the broker, as values: the ladder of delays, the way back, and parking.

Nothing here talks to a broker. A driver declares a plan when consuming starts, in the order given and
never at the moment of failure: a broker that is killed right after it created a quorum queue can lose
what was confirmed into it.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from otel_waybill.core.rules import require
from otel_waybill.core.spec import Retry
from otel_waybill.names import DELAY_PREFIX, PARKED_SUFFIX, PARKING_EXCHANGE, RETURN_EXCHANGE, UNROUTED

# Milliseconds, two to the octave. A name contains its time, so two programs can never disagree about it.
RUNGS: Final = tuple(round(250 * 2 ** (k / 2)) for k in range(28))

# Half the first rung, in seconds: below this, rounding up would more than double the delay.
SHORTEST: Final = 0.125

PRECONDITION_FAILED: Final = 406
"""The reply code of a declaration that differs from what exists (AMQP 0-9-1)."""

_LONGEST_NAME: Final = 255  # bytes, AMQP's limit

Arguments = Mapping[str, str | int]

_QUORUM: Final[Arguments] = MappingProxyType({"x-queue-type": "quorum"})
# Messages kept for a person. RabbitMQ 4 drops a message after 20 looks unless told otherwise, and -1,
# "no limit" there, loses messages on 3.10. When full, refuse the newcomer instead of dropping the oldest.
_KEPT: Final[Arguments] = MappingProxyType(
    {**_QUORUM, "x-delivery-limit": 1_000_000, "x-overflow": "reject-publish"}
)
# What nobody can route still arrives somewhere.
_ALTERNATE: Final[Arguments] = MappingProxyType({"alternate-exchange": UNROUTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A durable exchange to declare."""

    name: str
    type: Literal["direct", "fanout"]
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A durable queue to declare."""

    name: str
    arguments: Arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A binding to declare once its exchange and its queue exist."""

    exchange: str
    queue: str
    routing_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Everything to declare, kind by kind in this order: exchanges, queues, bindings."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]


def delay_name(ms: int) -> str:
    """Return the name that exchange and queue of the rung of *ms* milliseconds share."""
    return f"{DELAY_PREFIX}{ms}"


def parked_name(queue: str) -> str:
    """Return the name of the queue that keeps what *queue* could not handle."""
    return f"{queue}{PARKED_SUFFIX}"


def rung(delay: float) -> int | None:
    """Return the rung, in milliseconds, that makes a message wait *delay* seconds or a little longer.

    None below 0.125 s: too short for the ladder, the caller holds the message and runs it again itself.
    Delays past the last rung, 2896.309 s, get the last rung.
    """
    if delay < SHORTEST:
        return None
    return RUNGS[min(bisect_left(RUNGS, delay * 1000), len(RUNGS) - 1)]


def reachable(retry: Retry) -> tuple[int, ...]:
    """Return the rungs, in ascending milliseconds, on which *retry* can make a message wait."""
    spans = [(rung(low) or 0, rung(high) or 0) for low, high in retry.backoff.spans(retry.attempts)]
    return tuple(ms for ms in RUNGS if any(low <= ms <= high for low, high in spans))


def reachable_rung(delay: float, retry: Retry) -> int | None:
    """Return the rung for *delay* seconds among those that *retry* has had declared.

    A delay that an error asks for may lie beyond them; it gets the last one that exists.
    """
    wanted, declared = rung(delay), reachable(retry)
    if wanted is None or not declared:
        return None
    return next((ms for ms in declared if ms >= wanted), declared[-1])


def plan(queue: str, retry: Retry | None) -> Topology:
    """Return everything that a policy with *retry* on *queue* needs; *queue* itself is the user's.

    The way back exists without retries too: a message that is replayed from parking takes it.

    Raises:
        InvalidPolicy: the name of *queue* is too long for that of its parking queue.
    """
    parked = parked_name(queue)
    require(
        rule=f"a queue name of at most {_LONGEST_NAME - len(PARKED_SUFFIX)} bytes, to add {PARKED_SUFFIX!r}",
        holds=len(parked.encode()) <= _LONGEST_NAME,
        seen=queue,
    )
    rungs = reachable(retry) if retry is not None else ()
    return Topology(
        exchanges=(
            Exchange(name=UNROUTED, type="fanout"),
            Exchange(name=RETURN_EXCHANGE, type="direct", arguments=_ALTERNATE),
            Exchange(name=PARKING_EXCHANGE, type="direct", arguments=_ALTERNATE),
            *(Exchange(name=delay_name(ms), type="fanout") for ms in rungs),
        ),
        queues=(
            Queue(name=UNROUTED, arguments=_KEPT),
            Queue(name=parked, arguments=_KEPT),
            *(_delay_queue(ms) for ms in rungs),
        ),
        bindings=(
            Binding(exchange=UNROUTED, queue=UNROUTED, routing_key=""),
            Binding(exchange=RETURN_EXCHANGE, queue=queue, routing_key=queue),
            Binding(exchange=PARKING_EXCHANGE, queue=parked, routing_key=queue),
            *(Binding(exchange=delay_name(ms), queue=delay_name(ms), routing_key="") for ms in rungs),
        ),
    )


def _delay_queue(ms: int) -> Queue:
    # No x-dead-letter-routing-key: the key of the copy, which names the consumed queue, has to survive.
    return Queue(
        name=delay_name(ms),
        arguments={
            **_QUORUM,
            "x-message-ttl": ms,
            "x-dead-letter-exchange": RETURN_EXCHANGE,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )
