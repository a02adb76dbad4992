"""Consumers that leave their queue for a while, so that another one of it becomes the active one."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pika.channel import Channel
from pika.spec import Basic

from otel_waybill.clients.pika.loop import call_later
from otel_waybill.clients.pika.read import AnyChannel, underlying
from otel_waybill.clients.shared.ledger import Owned

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True, kw_only=True)
class Consuming:
    """How a consumer consumes, so that it can begin again.

    Attributes:
        queue: from which queue.
        exclusive: whether it wants to be the only one.
        arguments: of its own.
        away: whether it has left its queue.
    """

    queue: str
    exclusive: bool
    arguments: "Mapping[str, object] | None"
    away: bool = False


consumers: Owned[dict[str, Consuming]] = Owned("consumers", dict)
"""Those of each channel, by consumer tag."""


def begun(channel: Channel, tag: str, consuming: Consuming) -> None:
    """Take note of the consumer with *tag*, and forget those that have ended."""
    known = consumers.of(channel)
    for each in known.keys() - channel.consumer_tags:
        del known[each]
    known[tag] = consuming


def leave(surface: AnyChannel, tag: str, seconds: float) -> None:
    """Have the consumer with *tag* leave its queue, and come back after *seconds*.

    Only the broker is told: to pika and the program it consumes as before, and either may cancel it. What is
    given back after this does not come again, because the broker does one thing after the other.
    """
    channel = underlying(surface)
    consuming = consumers.of(channel).get(tag)
    if consuming is not None and not consuming.away:
        consuming.away = True
        channel._send_method(Basic.Cancel(consumer_tag=tag, nowait=True))
        call_later(surface, seconds, partial(_come_back, channel, tag, consuming))


def _come_back(channel: Channel, tag: str, consuming: Consuming) -> None:
    consuming.away = False
    # The program may have cancelled it meanwhile, and begun again with the same tag.
    same = consumers.of(channel).get(tag) is consuming
    if channel.is_open and same and tag in channel.consumer_tags:
        again = Basic.Consume(
            queue=consuming.queue,
            consumer_tag=tag,
            exclusive=consuming.exclusive,
            nowait=True,
            arguments=dict(consuming.arguments or {}),
        )
        channel._send_method(again)
