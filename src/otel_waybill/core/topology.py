"""What a policy needs at the broker, as values: the ladder of delays, the way back, and parking.

Nothing here talks to a broker. A driver takes the steps of a plan when consuming starts, in the order given
and never at the moment of failure: a broker that is killed right after it created a quorum queue can lose
what was confirmed into it.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal

from otel_waybill.core.anonymity import is_anonymous
from otel_waybill.core.rules import require
from otel_waybill.core.spec import PolicySpec, Retry
from otel_waybill.errors import InvalidPolicy, TopologyMismatch, TopologyMissing, TopologyRefused
from otel_waybill.names import (
    DELAY_PREFIX,
    PARKED_SUFFIX,
    PARKING_ANONYMOUS,
    PARKING_EXCHANGE,
    RETURN_EXCHANGE,
    UNROUTED,
)

# Milliseconds, two to the octave. A name contains its time, so two programs can never disagree about it.
RUNGS: Final = tuple(round(250 * 2 ** (k / 2)) for k in range(28))

# Half the first rung, in seconds: below this, rounding up would more than double the delay.
SHORTEST: Final = 0.125

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
    """A durable exchange to declare, or if *passive* only to be sure of."""

    name: str
    type: Literal["direct", "fanout"]
    arguments: Arguments = field(default_factory=dict)
    passive: bool = False

    @property
    def entity(self) -> str:
        """What it is called in errors."""
        return f"exchange {self.name!r}"

    @property
    def permissions(self) -> tuple[str, ...]:
        """What a user must be allowed for it (https://www.rabbitmq.com/docs/access-control)."""
        return _permissions(self, self.arguments.get("alternate-exchange"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A durable queue to declare, or if *passive* only to be sure of, whatever it is like."""

    name: str
    arguments: Arguments = field(default_factory=dict)
    passive: bool = False

    @property
    def entity(self) -> str:
        """What it is called in errors."""
        return f"queue {self.name!r}"

    @property
    def permissions(self) -> tuple[str, ...]:
        """What a user must be allowed for it."""
        return _permissions(self, self.arguments.get("x-dead-letter-exchange"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A binding to declare once its exchange and its queue exist."""

    exchange: str
    queue: str
    routing_key: str

    @property
    def entity(self) -> str:
        """What it is called in errors."""
        return f"the binding of queue {self.queue!r} to exchange {self.exchange!r}"

    @property
    def permissions(self) -> tuple[str, ...]:
        """What a user must be allowed for it."""
        return f"write on queue {self.queue!r}", f"read on exchange {self.exchange!r}"


Step = Exchange | Queue | Binding


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Everything that is needed, kind by kind."""

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of it, in the order in which to ask the broker for it."""
        return *self.exchanges, *self.queues, *self.bindings

    def checked(self) -> "Topology":
        """Return what of it a broker can be asked for without declaring anything: all but the bindings."""
        return Topology(
            exchanges=tuple(replace(each, passive=True) for each in self.exchanges),
            queues=tuple(replace(each, passive=True) for each in self.queues),
        )


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


def parking_key(queue: str, parking: str | None) -> str:
    """Return the routing key with which messages of *queue* are parked: its name, if it is one that stays.

    Each key leaves a binding behind at a *parking* queue of the user's. Generated names never end, so they
    all share one, which is no queue's name because it begins as only ours do.
    """
    return f"{PARKING_ANONYMOUS}{parking}" if parking is not None and is_anonymous(queue) else queue


def misplaced(queue: str, spec: PolicySpec, *, exclusive: bool = False) -> str | None:
    """Return why a policy cannot stand on *queue*, or None.

    Args:
        queue: the consumed queue.
        spec: the policy.
        exclusive: whether the queue is known to vanish with its connection.
    """
    if spec.parking is None and (exclusive or is_anonymous(queue)):
        return (
            "the queue is server-named or exclusive, so what is parked would outlive it; "
            "name a queue to park in, as in Policy(parking='orders.dlq')"
        )
    if queue == spec.parking:
        return "it is the queue in which this policy parks, so what fails there would come back for ever"
    if spec.retry is not None and spec.topology != "declare" and is_anonymous(queue):
        return (
            "its name was generated, so nobody can have bound it to where retries come from; use "
            "topology='declare', or no retry"
        )
    return None


def plan(queue: str, spec: PolicySpec) -> Topology:
    """Return what *spec* has done at the broker before *queue* is consumed; *queue* itself is the user's.

    The way back exists without retries too: a message that is replayed from parking takes it.

    Raises:
        InvalidPolicy: no such policy can stand on *queue*.
    """
    objection = misplaced(queue, spec)
    if objection is not None:
        msg = f"a policy cannot stand on queue {queue!r}: {objection}"
        raise InvalidPolicy(msg)
    if spec.topology == "none":
        return Topology()
    needed = _needed(queue, spec)
    return needed.checked() if spec.topology == "passive" else needed


def refusal(step: Step, code: int, reply: str) -> InvalidPolicy | None:
    """Return the error for a *step* that the broker refused, or None where its own words say it best.

    Args:
        step: what it was asked for.
        code: the reply code of AMQP 0-9-1 with which it closed the channel.
        reply: the reply text.
    """
    match code:
        case 403:  # ACCESS_REFUSED
            return TopologyRefused(step.entity, reply, step.permissions)
        case 404:  # NOT_FOUND, for a binding its queue: exchanges are declared before they are bound
            entity = f"queue {step.queue!r}" if isinstance(step, Binding) else step.entity
            return TopologyMissing(entity, reply)
        case 406:  # PRECONDITION_FAILED
            return TopologyMismatch(step.entity, reply)
    return None


def _needed(queue: str, spec: PolicySpec) -> Topology:
    parking = _parking_queue(queue, spec)
    rungs = reachable(spec.retry) if spec.retry is not None else ()
    return Topology(
        exchanges=(
            Exchange(name=UNROUTED, type="fanout"),
            Exchange(name=RETURN_EXCHANGE, type="direct", arguments=_ALTERNATE),
            Exchange(name=PARKING_EXCHANGE, type="direct", arguments=_ALTERNATE),
            *(Exchange(name=delay_name(ms), type="fanout") for ms in rungs),
        ),
        queues=(Queue(name=UNROUTED, arguments=_KEPT), parking, *(_delay_queue(ms) for ms in rungs)),
        bindings=(
            Binding(exchange=UNROUTED, queue=UNROUTED, routing_key=""),
            Binding(exchange=RETURN_EXCHANGE, queue=queue, routing_key=queue),
            Binding(
                exchange=PARKING_EXCHANGE, queue=parking.name, routing_key=parking_key(queue, spec.parking)
            ),
            *(Binding(exchange=delay_name(ms), queue=delay_name(ms), routing_key="") for ms in rungs),
        ),
    )


def _parking_queue(queue: str, spec: PolicySpec) -> Queue:
    if spec.parking is not None:
        # The user's: we do not know its arguments, and to declare it with ours could only fail.
        return Queue(name=spec.parking, passive=True)
    parked = parked_name(queue)
    require(
        rule=f"a queue name of at most {_LONGEST_NAME - len(PARKED_SUFFIX)} bytes, to add {PARKED_SUFFIX!r}",
        holds=len(parked.encode()) <= _LONGEST_NAME,
        seen=queue,
    )
    return Queue(name=parked, arguments=_KEPT)


def _permissions(step: Exchange | Queue, other: str | int | None) -> tuple[str, ...]:
    """Return what it takes to declare or check *step*, which hands messages on to the exchange *other*."""
    entity = step.entity
    if step.passive:
        # Any of them since 4.3.1, none of them before 4.2.6 (rabbitmq-server#16085, #16272).
        return (f"configure, write or read on {entity}",)
    own = f"configure on {entity}"
    return (own,) if other is None else (own, f"read on {entity}", f"write on exchange {other!r}")


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
