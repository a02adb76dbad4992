"""How the broker is asked for a step of a plan: by the same calls on the channels of both clients."""

from typing import Any, Protocol, TypeVar

from otel_waybill.core.declarations import Binding, Exchange, Queue, Step
from otel_waybill.core.spec import PolicySpec, TopologyMode
from otel_waybill.core.topology import rungs

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Key = tuple[str, TopologyMode, str | None, tuple[int, ...]]
Arguments = dict[str, Any]  # each client has a type of its own for what a value may be


class Channel(Protocol[T_co]):
    """What both clients' channels can do; one returns the answer, the other what is to be awaited."""

    def exchange_declare(
        self, exchange: str, *, exchange_type: str, passive: bool, durable: bool, arguments: Arguments
    ) -> T_co:
        """Declare an exchange, or if *passive* ask whether it exists."""

    def queue_declare(self, queue: str, *, passive: bool, durable: bool, arguments: Arguments) -> T_co:
        """Declare a queue, or if *passive* ask whether it exists."""

    def queue_bind(self, queue: str, exchange: str, routing_key: str) -> T_co:
        """Bind a queue to an exchange."""


def key(queue: str, spec: PolicySpec) -> Key:
    """Return what the plan for *queue* depends on: what needs the same is prepared once."""
    return queue, spec.topology, spec.parking, rungs(spec)


def request(channel: Channel[T], step: Step) -> T:
    """Ask the broker for *step*; it closes the channel instead of an answer if it refuses."""
    match step:
        case Exchange():
            return channel.exchange_declare(
                step.name,
                exchange_type=step.type,
                passive=step.passive,
                durable=True,
                arguments=dict(step.arguments),
            )
        case Queue():
            return channel.queue_declare(
                step.name, passive=step.passive, durable=True, arguments=dict(step.arguments)
            )
        case Binding():
            return channel.queue_bind(step.queue, step.exchange, step.routing_key)
