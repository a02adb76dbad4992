"""Declares at the broker what a policy needs, before consuming starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from aiormq.abc import AbstractConnection
from aiormq.exceptions import ChannelPreconditionFailed

from otel_waybill.core.spec import PolicySpec, Retry
from otel_waybill.core.topology import plan
from otel_waybill.errors import TopologyMismatch

_declared: WeakKeyDictionary[AbstractConnection, set[tuple[str, Retry | None]]] = WeakKeyDictionary()


async def declare(connection: AbstractConnection, queue: str, spec: PolicySpec) -> None:
    """Declare what *spec* needs on *queue*, once for each connection.

    On a channel of its own, because a refused declaration closes the channel.

    Raises:
        TopologyMismatch: the broker has one of them already, with other arguments.
        AMQPError: the connection failed.
    """
    declared = _declared.setdefault(connection, set())
    if (queue, spec.retry) in declared:
        return
    topology = plan(queue, spec.retry)
    channel = await connection.channel()
    for exchange in topology.exchanges:
        with _mismatch(f"exchange {exchange.name!r}"):
            await channel.exchange_declare(
                exchange.name, exchange_type=exchange.type, durable=True, arguments=dict(exchange.arguments)
            )
    for each in topology.queues:
        with _mismatch(f"queue {each.name!r}"):
            await channel.queue_declare(each.name, durable=True, arguments=dict(each.arguments))
    for binding in topology.bindings:
        with _mismatch(f"the binding of queue {binding.queue!r} to exchange {binding.exchange!r}"):
            await channel.queue_bind(binding.queue, binding.exchange, binding.routing_key)
    await channel.close()
    declared.add((queue, spec.retry))


@contextmanager
def _mismatch(entity: str) -> Iterator[None]:
    try:
        yield
    except ChannelPreconditionFailed as error:
        raise TopologyMismatch(entity, str(error)) from error
