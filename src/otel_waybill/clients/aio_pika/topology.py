"""Sees to it that the broker has what a policy needs, before consuming starts."""

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from aiormq.abc import AbstractConnection
from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelClosed,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)

from otel_waybill.clients.shared.ledger import Owned
from otel_waybill.clients.shared.topology import Channel, Key, key, request
from otel_waybill.core.declarations import Topology, refusal
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.topology import plan

if TYPE_CHECKING:
    from collections.abc import Awaitable

# aiormq keeps the text of a refusal, and of its reply code only which class it raises.
_CODES: dict[type[ChannelClosed], int] = {
    ChannelAccessRefused: 403,
    ChannelNotFoundEntity: 404,
    ChannelPreconditionFailed: 406,
}

_prepared: WeakKeyDictionary[AbstractConnection, set[Key]] = WeakKeyDictionary()

_preparing: Owned[asyncio.Lock] = Owned("preparing", asyncio.Lock)


async def prepare(connection: AbstractConnection, queue: str, spec: PolicySpec, *, anew: bool) -> None:
    """Declare or check what *spec* needs on *queue*, as it says, once for each connection.

    On a channel of its own, because a refusal closes the channel.

    Args:
        connection: the consumer's.
        queue: what it consumes.
        spec: its policy.
        anew: whether a consumer begins, for which what may have gone with the queue is there once more.

    Raises:
        TopologyMismatch: the broker has one of them already, with other arguments.
        TopologyMissing: it lacks one that the policy does not declare.
        TopologyRefused: the user may not declare one.
        InvalidPolicy: no such policy can stand on *queue*.
        AMQPError: the connection failed.
    """
    prepared = _prepared.setdefault(connection, set())
    wanted = key(queue, spec)
    # A backlog asks for it all at once: only the first of them has to do it, and none overtakes another.
    async with _preparing.of(connection):
        known = wanted in prepared
        if anew or not known:
            await _prepare(connection, plan(queue, spec, known=known))
            prepared.add(wanted)


async def _prepare(connection: AbstractConnection, topology: Topology) -> None:
    if not topology.steps:
        return
    opened = await connection.channel()
    channel: Channel[Awaitable[object]] = opened
    for step in topology.steps:
        try:
            await request(channel, step)
        except ChannelClosed as error:
            ours = refusal(step, _CODES.get(type(error), 0), str(error))
            if ours is None:
                raise
            raise ours from error
    await opened.close()
