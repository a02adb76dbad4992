"""Which of pika's methods are replaced; the reasons for each place are in the modules that stand in."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.channel import Channel

from otel_waybill.clients.pika import callbacks, closing, confirm, deliver, publish, pull, settle, threads
from otel_waybill.guard import harmless
from otel_waybill.patching import PatchSet

if TYPE_CHECKING:
    from types import ModuleType

_patching = harmless("patching Twisted's adapter")
_TWISTED = "pika.adapters.twisted_connection"
_added: "list[ModuleType]" = []


def complete() -> PatchSet:
    """Return `patches`, with those for Twisted from the moment that the program uses it with pika."""
    if _TWISTED in sys.modules and not _added:
        from otel_waybill.clients.pika import twisted  # noqa: PLC0415 - see there

        twisted.add_to(patches)
        _added.append(twisted)
    return patches


def open_channel(
    wrapped: Callable[..., None], _: Channel, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """Stand in for `Channel.open`, the first that is heard of an adapter loaded after instrumenting."""
    if not _added:
        with _patching:
            complete().apply()
    wrapped(*args, **kwargs)


patches = (
    PatchSet()
    .add(BlockingChannel, "basic_publish", publish.basic_publish)
    .add(Channel, "basic_publish", confirm.basic_publish)
    .add(Channel, "confirm_delivery", confirm.confirm_delivery)
    .add(BlockingChannel, "basic_consume", deliver.basic_consume)
    .add(BlockingChannel, "basic_cancel", pull.give_back)
    .add(Channel, "basic_consume", callbacks.basic_consume)
    .add(Channel, "basic_qos", deliver.basic_qos)
    .add(Channel, "queue_declare", deliver.queue_declare)
    .add(BlockingChannel, "basic_get", pull.basic_get)
    .add(Channel, "basic_get", callbacks.basic_get)
    .add(BlockingChannel, "consume", pull.consume)
    .add(BlockingChannel, "cancel", pull.cancel)
    .add(Channel, "basic_ack", settle.basic_ack)
    .add(Channel, "basic_nack", settle.basic_nack)
    .add(Channel, "basic_reject", settle.basic_reject)
    .add(Channel, "open", open_channel)
    .add(BlockingChannel, "close", closing.close_channel)
    .add(BlockingConnection, "close", closing.close_connection)
    .add(BlockingConnection, "add_callback_threadsafe", threads.add_callback_threadsafe)
)
