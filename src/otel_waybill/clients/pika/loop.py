"""What every adapter's connection can do for us without waiting: timers, calls, and channels of our own."""

from collections.abc import Callable
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel

from otel_waybill.clients.pika.read import AnyChannel, underlying
from otel_waybill.patching import passthrough


def call_later(surface: AnyChannel, seconds: float, callback: Callable[[], None]) -> object:
    """Call *callback* after so many *seconds*, from where the callbacks of *surface* are called.

    Returns:
        The timer, for `remove_timeout`.
    """
    if isinstance(surface, BlockingChannel):
        # A timer of the connection below fires within nested waits too, where no handler may run.
        return surface.connection.call_later(seconds, callback)
    timer: object = surface.connection._adapter_call_later(seconds, callback)
    return timer


def remove_timeout(surface: AnyChannel, timer: Any) -> None:  # noqa: ANN401 - each adapter has its own
    """Take back a *timer* of `call_later`."""
    if isinstance(surface, BlockingChannel):
        surface.connection.remove_timeout(timer)
    else:
        surface.connection._adapter_remove_timeout(timer)


def call_threadsafe(surface: AnyChannel, callback: Callable[[], None]) -> None:
    """Have *callback* called, as soon as possible, from where the callbacks of *surface* are called.

    Raises:
        ConnectionWrongStateError: the BlockingConnection is closed; other loops may have their own words.
    """
    if isinstance(surface, BlockingChannel):
        with passthrough():
            surface.connection.add_callback_threadsafe(callback)
    else:
        surface.connection._adapter_add_callback_threadsafe(callback)


def open_beside(surface: AnyChannel, opened: Callable[[Channel], None]) -> Channel:
    """Begin to open another channel on the connection of *surface*, and call *opened* when it is."""
    channel: Channel = underlying(surface).connection.channel(on_open_callback=opened)
    if isinstance(surface, BlockingChannel):
        # What BlockingConnection.channel() does, without waiting. Its closing needs the blocking double.
        channel._set_cookie(BlockingChannel(channel, surface.connection))
    return channel
