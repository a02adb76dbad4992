"""What a broker is asked for before consuming starts, as values, and what it means when it refuses."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from otel_waybill.errors import InvalidPolicy, TopologyMismatch, TopologyMissing, TopologyRefused

Arguments = Mapping[str, str | int]


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
        case 404 if not isinstance(step, Binding):  # NOT_FOUND; a binding misses the program's own queue
            return TopologyMissing(step.entity, reply)
        case 406:  # PRECONDITION_FAILED
            return TopologyMismatch(step.entity, reply)
    return None


def _permissions(step: Exchange | Queue, other: str | int | None) -> tuple[str, ...]:
    """Return what it takes to declare or check *step*, which hands messages on to the exchange *other*."""
    entity = step.entity
    if step.passive:
        # Any of them since 4.3.1, none of them before 4.2.6 (rabbitmq-server#16085, #16272).
        return (f"configure, write or read on {entity}",)
    own = f"configure on {entity}"
    return (own,) if other is None else (own, f"read on {entity}", f"write on exchange {other!r}")
