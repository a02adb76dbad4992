"""Brings the consumers of a connection or channel to an end, so that nothing is done twice for no reason."""

import asyncio
import contextlib
from typing import TYPE_CHECKING, cast

from aio_pika.abc import AbstractChannel, AbstractConnection

from otel_waybill.clients.aio_pika.read import TOO_LATE, underlay_of
from otel_waybill.clients.aio_pika.settle import ledgers
from otel_waybill.clients.aio_pika.standby import consumers

if TYPE_CHECKING:
    from aiormq.channel import Channel
    from aiormq.connection import Connection

Target = AbstractConnection | AbstractChannel


async def shutdown(target: Target, grace: float) -> None:
    """Cancel the consumers of *target*, and bring what policies have there to an end.

    What waits is given back at once. Handlers have *grace* seconds; then they are cancelled, which gives
    their deliveries back as well. A copy on its way to a retry may still be confirmed. What the program has
    fetched itself, or has been left with, is its own.
    """
    channels = await _channels(target)
    for channel in channels:
        await _stop_consuming(channel)
    guards = [guard for channel in channels for guard in ledgers.of(channel).entries.values()]
    ours = [guard for guard in guards if guard.pushed and guard.outcome is None]
    for guard in ours:
        if guard.holding:
            guard.task.cancel()
    running = {guard.task for guard in ours} - {asyncio.current_task()}
    if running:
        _, late = await asyncio.wait(running, timeout=grace)
        for task in late:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _channels(target: Target) -> "list[Channel]":
    if isinstance(target, AbstractChannel):
        return [cast("Channel", await underlay_of(target))]
    transport = target.transport
    connection = None if transport is None else cast("Connection", transport.connection)
    open_ = [] if connection is None else connection.channels.values()
    return [cast("Channel", channel) for channel in open_ if channel is not None]


async def _stop_consuming(channel: "Channel") -> None:
    known = consumers.of(channel)
    # One that has left its queue for a while is not among those of the channel.
    for tag in {*channel.consumers, *known}:
        consuming = known.pop(tag, None)
        cancel = channel.basic_cancel if consuming is None else consuming.cancel
        if cancel is not None:
            with contextlib.suppress(*TOO_LATE):
                await cancel(tag)
