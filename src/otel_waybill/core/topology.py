"""What a policy needs at the broker, as values: the ladder of delays, the way back, and parking.

Nothing here talks to a broker. A driver takes the steps of a plan when consuming starts, in the order given
and never at the moment of failure: a broker that is killed right after it created a quorum queue can lose
what was confirmed into it.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from otel_waybill.core.anonymity import is_anonymous
from otel_waybill.core.backoff import Backoff
from otel_waybill.core.declarations import Arguments, Binding, Exchange, Queue, Topology
from otel_waybill.core.rules import require
from otel_waybill.core.spec import PolicySpec
from otel_waybill.errors import InvalidPolicy
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

# For waits that have no backoff to tell how long they are.
_DEFERRAL: Final = 32_000
# What is left of a wait longer than the last rung may be of any length: these are for that.
_LAST_LEGS: Final = RUNGS[-8:]

_LONGEST_NAME: Final = 255  # bytes, AMQP's limit
_POLICIES: Final = 128  # whose rungs are remembered; no program has more

_QUORUM: Final[Arguments] = MappingProxyType({"x-queue-type": "quorum"})
# Messages kept for a person. RabbitMQ 4 drops a message after 20 looks unless told otherwise, and -1,
# "no limit" there, loses messages on 3.10. When full, refuse the newcomer instead of dropping the oldest.
_KEPT: Final[Arguments] = MappingProxyType(
    {**_QUORUM, "x-delivery-limit": 1_000_000, "x-overflow": "reject-publish"}
)
# What nobody can route still arrives somewhere.
_ALTERNATE: Final[Arguments] = MappingProxyType({"alternate-exchange": UNROUTED})


def delay_name(ms: int) -> str:
    """Return the name that exchange and queue of the rung of *ms* milliseconds share."""
    return f"{DELAY_PREFIX}{ms}"


def parked_name(queue: str) -> str:
    """Return the name of the queue that keeps what *queue* could not handle."""
    return f"{queue}{PARKED_SUFFIX}"


def rungs(spec: PolicySpec) -> tuple[int, ...]:
    """Return the rungs, in ascending milliseconds, that a policy needs."""
    retry = spec.retry
    if retry is not None and not retry.in_order:
        climbed = _climbed(retry.backoff, retry.attempts, guarded=retry.classic_guard)
        if climbed:
            return climbed
    # Who may hold a message must be able to put it off. Whoever keeps the order never lets go of it.
    holds = spec.breaker is not None or spec.rate is not None
    return (_DEFERRAL,) if holds and not spec.in_order else ()


def rung(delay: float, declared: Sequence[int]) -> int | None:
    """Return the rung, in milliseconds, on which to make a message wait *delay* seconds.

    The first of those *declared* that is long enough, else the longest of them: the message then comes back
    early and goes once more. None: too short for the ladder, or there is none; the caller holds the message.
    """
    if delay < SHORTEST or not declared:
        return None
    return declared[min(bisect_left(declared, delay * 1000), len(declared) - 1)]


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
    if rungs(spec) and spec.topology != "declare" and is_anonymous(queue):
        return (
            "its name was generated, so nobody can have bound it to where delayed messages come back from; "
            "use topology='declare', or a policy that neither retries by the broker nor holds"
        )
    return None


def plan(queue: str, spec: PolicySpec, *, known: bool = False) -> Topology:
    """Return what *spec* has done at the broker before *queue* is consumed; *queue* itself is the user's.

    The way back exists without retries too: a message that is replayed from parking takes it.

    Args:
        queue: the consumed queue.
        spec: the policy.
        known: whether all of it has been done before: what goes with a queue that somebody deletes is done
            again, because its binding is the only way back for what waits.

    Raises:
        InvalidPolicy: no such policy can stand on *queue*.
    """
    objection = misplaced(queue, spec)
    if objection is not None:
        msg = f"a policy cannot stand on queue {queue!r}: {objection}"
        raise InvalidPolicy(msg)
    if spec.topology == "none":
        return Topology()
    needed = _own(queue, spec) if known else _needed(queue, spec)
    return needed.checked() if spec.topology == "passive" else needed


def _own(queue: str, spec: PolicySpec) -> Topology:
    """Return what no other queue has any use for."""
    parking = _parking_queue(queue, spec)
    return Topology(
        queues=(parking,),
        bindings=(
            Binding(exchange=RETURN_EXCHANGE, queue=queue, routing_key=queue),
            Binding(
                exchange=PARKING_EXCHANGE, queue=parking.name, routing_key=parking_key(queue, spec.parking)
            ),
        ),
    )


def _needed(queue: str, spec: PolicySpec) -> Topology:
    own = _own(queue, spec)
    delays = rungs(spec)
    return Topology(
        exchanges=(
            Exchange(name=UNROUTED, type="fanout"),
            Exchange(name=RETURN_EXCHANGE, type="direct", arguments=_ALTERNATE),
            Exchange(name=PARKING_EXCHANGE, type="direct", arguments=_ALTERNATE),
            *(Exchange(name=delay_name(ms), type="fanout") for ms in delays),
        ),
        queues=(Queue(name=UNROUTED, arguments=_KEPT), *own.queues, *(_delay_queue(ms) for ms in delays)),
        bindings=(
            Binding(exchange=UNROUTED, queue=UNROUTED, routing_key=""),
            *own.bindings,
            *(Binding(exchange=delay_name(ms), queue=delay_name(ms), routing_key="") for ms in delays),
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


@lru_cache(_POLICIES)  # it is asked for each delivery
def _climbed(backoff: Backoff, attempts: int, *, guarded: bool) -> tuple[int, ...]:
    """Return the rungs on which *backoff* can make a message wait; *guarded*: so can a classic guard."""
    spans = list(backoff.spans(attempts))
    steps = [(rung(low, RUNGS) or 0, rung(high, RUNGS) or 0) for low, high in spans]
    climbed = {ms for ms in RUNGS for low, high in steps if low <= ms <= high}
    if any(high * 1000 > RUNGS[-1] for _, high in spans):
        climbed.update(_LAST_LEGS)
    if guarded and attempts > 1:
        climbed.add(RUNGS[0])
    return tuple(sorted(climbed))
