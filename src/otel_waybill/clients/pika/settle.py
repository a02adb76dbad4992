"""Acks, nacks and rejects on pika: traced, and noticed or intercepted where a policy owns the delivery.

All adapters settle on `pika.channel.Channel`, so that is where the patches are. A program that is not
instrumented gets a channel that does the same.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from opentelemetry import context as otel
from pika.channel import Channel

from otel_waybill import names
from otel_waybill.clients.pika import live
from otel_waybill.clients.pika.read import AnyChannel, endpoint, underlying
from otel_waybill.clients.shared.ledger import Ledgers, Owned
from otel_waybill.core.verdicts import Settled
from otel_waybill.guard import harmless
from otel_waybill.patching import Proxy, argument, passthrough
from otel_waybill.telemetry.hooks import Message
from otel_waybill.telemetry.semconv import ACK, NACK, REJECT, Operation

if TYPE_CHECKING:
    from otel_waybill.clients.pika.enforce import Guard

Call = Callable[[], object]

ledgers: "Ledgers[Guard]" = Ledgers()

_log = logging.getLogger("otel_waybill")
_told: Owned[bool] = Owned("told_late", bool)

_tracing = harmless("tracing a settlement")


def send(operation: Operation, channel: Channel, message: Message, call: Call, batch: int = 0) -> None:
    """Settle *message*, or a *batch* of them, by *call*, in a span of *operation* if those are wanted."""
    recorder, work = live.recorder(), None
    if recorder.settings.settle_spans:
        with _tracing:
            more = {names.MESSAGING_BATCH_COUNT: batch} if batch else None
            work = recorder.start(operation, message, endpoint(channel), otel.get_current(), more=more)
    if work is None:
        call()
    else:
        with work:
            call()


def settle(  # noqa: PLR0913 - a settlement, each part of it by its name
    operation: Operation,
    surface: AnyChannel,
    tag: int,
    call: Call,
    *,
    multiple: bool = False,
    requeue: bool = True,
) -> None:
    """Let the program settle what is its to settle.

    Args:
        operation: ack, nack or reject.
        surface: the channel on which it does.
        tag: the delivery tag.
        call: what the program called.
        multiple: whether it speaks of earlier deliveries as well.
        requeue: for a nack or reject.
    """
    channel = underlying(surface)
    ledger = ledgers.of(channel)
    message = ledger.about(tag)
    plan = ledger.settle(tag, multiple=multiple, refusing=operation is not ACK)
    if plan.late:
        _tell(operation, channel, tag)
    batch = len(plan.tags) if multiple else 0
    if plan.whole:
        send(operation, channel, message, call, batch)
    elif plan.tags:

        def one_by_one() -> None:
            for each in plan.tags:
                if operation is ACK:
                    surface.basic_ack(each)
                else:
                    surface.basic_nack(each, requeue=requeue)

        with passthrough():
            send(operation, channel, message, one_by_one, batch)
    for entry in plan.entries:
        entry.note(Settled.ACK if operation is ACK else Settled.REFUSED)


def _tell(operation: Operation, channel: Channel, tag: int) -> None:
    """Say, once for each channel, that the program settles what is settled."""
    if not _told.seen(channel):
        _told.put(channel, True)  # noqa: FBT003 - the value, not a flag of the call
        _log.warning(
            "ignoring this %s of delivery %d on %r, which is settled already under its policy; the broker "
            "would close the channel for it (said once for each channel)",
            operation.name,
            tag,
            channel,
        )


# The arguments of wrapt's wrappers: the bound original, its instance, and what it was called with.
_Args = tuple[object, ...]
_Kwargs = dict[str, object]


def basic_ack(wrapped: Callable[..., None], channel: Channel, args: _Args, kwargs: _Kwargs) -> None:
    """Stand in for `Channel.basic_ack`."""
    tag = argument(args, kwargs, 0, "delivery_tag", 0)
    multiple = argument(args, kwargs, 1, "multiple", default=False)
    settle(ACK, channel, tag, lambda: wrapped(*args, **kwargs), multiple=multiple)


def basic_nack(wrapped: Callable[..., None], channel: Channel, args: _Args, kwargs: _Kwargs) -> None:
    """Stand in for `Channel.basic_nack`."""
    tag = argument(args, kwargs, 0, "delivery_tag", 0)
    multiple = argument(args, kwargs, 1, "multiple", default=False)
    requeue = argument(args, kwargs, 2, "requeue", default=True)
    settle(NACK, channel, tag, lambda: wrapped(*args, **kwargs), multiple=multiple, requeue=requeue)


def basic_reject(wrapped: Callable[..., None], channel: Channel, args: _Args, kwargs: _Kwargs) -> None:
    """Stand in for `Channel.basic_reject`."""
    tag = argument(args, kwargs, 0, "delivery_tag", 0)
    settle(REJECT, channel, tag, lambda: wrapped(*args, **kwargs))


def for_handler(surface: AnyChannel) -> "AnyChannel | GuardedChannel":
    """Return the channel for a handler under a policy: one whose settlements are noticed."""
    return surface if live.patched else GuardedChannel(surface)


class GuardedChannel(Proxy):
    """The channel that a handler under a policy gets in a program that is not instrumented."""

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:  # noqa: FBT001, FBT002 - pika's signature
        """Acknowledge, as pika does, and let the policy know."""
        channel: AnyChannel = self.__wrapped__

        def call() -> None:
            channel.basic_ack(delivery_tag, multiple)

        settle(ACK, channel, delivery_tag, call, multiple=multiple)

    def basic_nack(self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True) -> None:  # noqa: FBT001, FBT002 - pika's signature
        """Leave the delivery to the policy, as a failure."""
        channel: AnyChannel = self.__wrapped__

        def call() -> None:
            channel.basic_nack(delivery_tag, multiple, requeue)

        settle(NACK, channel, delivery_tag, call, multiple=multiple, requeue=requeue)

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:  # noqa: FBT001, FBT002 - pika's signature
        """Leave the delivery to the policy, as a failure."""
        channel: AnyChannel = self.__wrapped__

        def call() -> None:
            channel.basic_reject(delivery_tag, requeue)

        settle(REJECT, channel, delivery_tag, call)
