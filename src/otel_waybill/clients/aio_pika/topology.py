"""Declares at the broker what a policy needs, before consuming starts."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from aiormq.abc import AbstractConnection
from aiormq.exceptions import ChannelPreconditionFailed

from otel_waybill.clients.shared.ledger import Owned
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.topology import Topology, plan, rungs
from otel_waybill.errors import TopologyMismatch

_declared: WeakKeyDictionary[AbstractConnection, set[tuple[str, tuple[int, ...]]]] = WeakKeyDictionary()

_declaring: Owned[asyncio.Lock] = Owned("declaring", asyncio.Lock)


async def declare(connection: AbstractConnection, queue: str, spec: PolicySpec) -> None:
    """Declare what *spec* needs on *queue*, once for each connection.

    On a channel of its own, because a refused declaration closes the channel.

    Raises:
        TopologyMismatch: the broker has one of them already, with other arguments.
        AMQPError: the connection failed.
    """
    declared = _declared.setdefault(connection, set())
    if (queue, rungs(spec)) in declared:
        return
    # A backlog asks for it all at once; only the first of them has to do it.
    async with _declaring.of(connection):
        if (queue, rungs(spec)) not in declared:
            await _declare(connection, plan(queue, spec))
            declared.add((queue, rungs(spec)))


async def _declare(connection: AbstractConnection, topology: Topology) -> None:
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


@contextmanager
def _mismatch(entity: str) -> Iterator[None]:
    try:
        yield
    except ChannelPreconditionFailed as error:
        raise TopologyMismatch(entity, str(error)) from error
