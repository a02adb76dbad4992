"""Consumers that leave their queue for a while, so that another one of it becomes the active one."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from aio_pika.queue import Queue
from aiormq.abc import AbstractChannel, ArgumentsType, ConsumerCallback

from otel_waybill.clients.aio_pika.read import TOO_LATE, underlay_of
from otel_waybill.clients.aio_pika.tasks import kept
from otel_waybill.clients.shared.ledger import Owned
from otel_waybill.patching import argument

if TYPE_CHECKING:
    from aiormq.channel import Channel


@dataclass(slots=True, kw_only=True)
class Consuming:
    """How a consumer consumes, so that it can begin again.

    Attributes:
        queue: from which queue.
        cancel: ends it, given its tag; None where the program iterates, and ends that itself.
        exclusive: whether it wants to be the only one.
        arguments: of its own.
        leaving: the task in which it leaves, while it is away.
    """

    queue: str
    cancel: Callable[[str], Awaitable[object]] | None
    exclusive: bool
    arguments: ArgumentsType | None
    leaving: asyncio.Task[None] | None = None


consumers: Owned[dict[str, Consuming]] = Owned("consumers", dict)
"""Those of each channel, by consumer tag."""


async def leave(channel: AbstractChannel, tag: str, seconds: float) -> None:
    """Have the consumer with *tag* leave its queue, and come back after *seconds*.

    Returns when the broker has cancelled it: what is given back before that would come again at once.
    """
    consuming = consumers.of(channel).get(tag)
    if consuming is None:
        return  # the program has cancelled it
    if consuming.leaving is None:
        callback = cast("Channel", channel).consumers.get(tag)
        if callback is None:
            return  # the broker has, by itself
        consuming.leaving = asyncio.create_task(_leave(channel, tag, consuming, callback, seconds))
    await asyncio.shield(consuming.leaving)


async def cancel(
    wrapped: Callable[..., Awaitable[object]],
    queue: Queue,
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> object:
    """Stand in for `Queue.cancel`."""
    await forget(queue, argument(args, kwargs, 0, "consumer_tag", ""))
    return await wrapped(*args, **kwargs)


async def forget(queue: Queue, tag: str) -> None:
    """Let the consumer with *tag* end: if it is away, it does not come back."""
    channel = await underlay_of(queue.channel)
    consumers.of(channel).pop(tag, None)


async def _leave(
    channel: AbstractChannel, tag: str, consuming: Consuming, callback: ConsumerCallback, seconds: float
) -> None:
    await channel.basic_cancel(tag)

    async def come_back() -> None:
        consuming.leaving = None
        if consumers.of(channel).get(tag) is consuming:
            # On a channel that is gone, a robust connection has begun again already.
            with contextlib.suppress(*TOO_LATE):
                await channel.basic_consume(
                    consuming.queue,
                    callback,
                    consumer_tag=tag,
                    exclusive=consuming.exclusive,
                    arguments=consuming.arguments,
                )

    asyncio.get_running_loop().call_later(seconds, lambda: kept(come_back()))
