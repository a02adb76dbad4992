"""Acks, nacks and rejects on pika: traced, and noticed or intercepted where a policy owns the delivery.

All adapters settle on `pika.channel.Channel`, so that is where the patches are. A program that is not
instrumented gets a channel that does the same.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from opentelemetry import context as otel
from pika.channel import Channel

from otel_waybill.clients.pika import live
from otel_waybill.clients.pika.read import AnyChannel, endpoint, underlying
from otel_waybill.clients.shared.ledger import Ledgers, Recent
from otel_waybill.core.verdicts import Settled
from otel_waybill.guard import harmless
from otel_waybill.patching import Proxy, argument, passthrough
from otel_waybill.telemetry.semconv import ACK, NACK, REJECT, Operation

if TYPE_CHECKING:
    from otel_waybill.clients.pika.enforce import Guard

Call = Callable[[], object]

ledgers: "Ledgers[Guard]" = Ledgers()
recent = Recent()

_tracing = harmless("tracing a settlement")


def send(operation: Operation, channel: Channel, tag: int, call: Call) -> None:
    """Settle by *call*, in a span of *operation* if those are wanted."""
    recorder, work = live.recorder(), None
    if recorder.settings.settle_spans:
        with _tracing:
            message = recent.about(channel, tag)
            work = recorder.start(operation, message, endpoint(channel), otel.get_current())
    if work is None:
        call()
    else:
        with work:
            call()


def ack(channel: Channel, tag: int, call: Call, *, multiple: bool) -> None:
    """Have *call* ack, and note it for the deliveries under a policy that it speaks of."""
    ledger = ledgers.seen(channel)
    covered = [] if ledger is None else ledger.covered(tag, multiple=multiple)
    ours = [(each, entry) for each, entry in covered if entry.started and entry.settled is None]
    if len(ours) == len(covered):
        call()
    else:
        # What is held has not run, and what was refused is ours: to speak for those would lose them.
        with passthrough():
            for each, _ in ours:
                channel.basic_ack(each)
    for _, entry in ours:
        entry.note(Settled.ACK)


def refuse(channel: Channel, tag: int, call: Call, *, multiple: bool) -> None:
    """Have *call* nack or reject, unless a policy owns the delivery: then that decides what becomes of it."""
    ledger = ledgers.seen(channel)
    covered = [] if ledger is None else ledger.covered(tag, multiple=multiple)
    if not covered:
        call()
    for _, entry in covered:
        if entry.started and entry.settled is None:
            entry.note(Settled.REFUSED)


# The arguments of wrapt's wrappers: the bound original, its instance, and what it was called with.
_Args = tuple[object, ...]
_Kwargs = dict[str, object]


def basic_ack(wrapped: Callable[..., None], channel: Channel, args: _Args, kwargs: _Kwargs) -> None:
    """Stand in for `Channel.basic_ack`."""
    tag, multiple = (
        argument(args, kwargs, 0, "delivery_tag", 0),
        argument(args, kwargs, 1, "multiple", default=False),
    )
    ack(channel, tag, lambda: send(ACK, channel, tag, lambda: wrapped(*args, **kwargs)), multiple=multiple)


def basic_nack(wrapped: Callable[..., None], channel: Channel, args: _Args, kwargs: _Kwargs) -> None:
    """Stand in for `Channel.basic_nack`."""
    tag, multiple = (
        argument(args, kwargs, 0, "delivery_tag", 0),
        argument(args, kwargs, 1, "multiple", default=False),
    )
    refuse(
        channel, tag, lambda: send(NACK, channel, tag, lambda: wrapped(*args, **kwargs)), multiple=multiple
    )


def basic_reject(wrapped: Callable[..., None], channel: Channel, args: _Args, kwargs: _Kwargs) -> None:
    """Stand in for `Channel.basic_reject`."""
    tag = argument(args, kwargs, 0, "delivery_tag", 0)
    refuse(channel, tag, lambda: send(REJECT, channel, tag, lambda: wrapped(*args, **kwargs)), multiple=False)


class GuardedChannel(Proxy):
    """The channel that a handler under a policy gets in a program that is not instrumented."""

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:  # noqa: FBT001, FBT002 - pika's signature
        """Acknowledge, as pika does, and let the policy know."""
        channel: AnyChannel = self.__wrapped__
        ack(
            underlying(channel),
            delivery_tag,
            lambda: channel.basic_ack(delivery_tag, multiple),
            multiple=multiple,
        )

    def basic_nack(self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True) -> None:  # noqa: FBT001, FBT002 - pika's signature
        """Leave the delivery to the policy, as a failure."""
        channel: AnyChannel = self.__wrapped__
        refuse(
            underlying(channel),
            delivery_tag,
            lambda: channel.basic_nack(delivery_tag, multiple, requeue),
            multiple=multiple,
        )

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:  # noqa: FBT001, FBT002 - pika's signature
        """Leave the delivery to the policy, as a failure."""
        channel: AnyChannel = self.__wrapped__
        call = lambda: channel.basic_reject(delivery_tag, requeue)  # noqa: E731 - one line, used once
        refuse(underlying(channel), delivery_tag, call, multiple=False)
