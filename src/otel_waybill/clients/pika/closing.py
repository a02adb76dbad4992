"""Ending in good order: no new deliveries, and an end for each that a policy has."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.channel import Channel
from pika.connection import Connection
from pika.exceptions import AMQPChannelError, AMQPError

from otel_waybill.clients.pika.deliver import watched
from otel_waybill.clients.pika.settle import ledgers
from otel_waybill.clients.pika.workers import pools

_Args = tuple[object, ...]
_Kwargs = dict[str, object]

Target = BlockingConnection | BlockingChannel | Connection | Channel


def close_channel(
    wrapped: Callable[..., None], channel: BlockingChannel, args: _Args, kwargs: _Kwargs
) -> None:
    """Stand in for `BlockingChannel.close`: a copy that is on its way may arrive before."""
    _close(wrapped, channel.connection, [channel._impl], args, kwargs)


def close_connection(
    wrapped: Callable[..., None], connection: BlockingConnection, args: _Args, kwargs: _Kwargs
) -> None:
    """Stand in for `BlockingConnection.close`, which would close the channel for copies among the first."""
    _close(wrapped, connection, _open(connection._impl), args, kwargs)


def shutdown(target: Target, grace: float, done: Callable[[], object]) -> None:
    """Stop consuming on *target* and bring what policies have there to an end; call *done* then.

    On a blocking connection it is done on return.
    """
    if isinstance(target, BlockingChannel):
        _settle_up(target.connection, [target._impl] if target.is_open else [], grace)
        done()
    elif isinstance(target, BlockingConnection):
        _settle_up(target, _open(target._impl), grace)
        done()
    else:
        connection = target if isinstance(target, Connection) else target.connection
        channels = [target] if isinstance(target, Channel) else _open(target)
        for channel in channels:
            for tag in channel.consumer_tags:
                channel.basic_cancel(tag)
        _Ending(connection, channels, grace, done)


class _Ending:
    """The deliveries of some channels, until the last of them has come to its end."""

    def __init__(
        self, connection: Connection, channels: Iterable[Channel], grace: float, done: Callable[[], object]
    ) -> None:
        """Call *done* at the end; handlers in threads are waited for no longer than *grace* seconds."""
        self.over = False
        self._connection = connection
        self._done = done
        guards = [guard for channel in channels for guard in ledgers.of(channel).entries.values()]
        self._left = {guard for guard in guards if guard.busy}
        self._timer = connection._adapter_call_later(grace, self._interrupt) if self._left else None
        for guard in [*self._left]:
            guard.finish(partial(self._ended, guard))
        self._look()

    def _ended(self, guard: object) -> None:
        self._left.discard(guard)
        self._look()

    def _interrupt(self) -> None:
        # Copies on their way are not: each has a time limit of its own.
        for guard in [*self._left]:
            guard.interrupt()

    def _look(self) -> None:
        if not self._left and not self.over:
            self.over = True
            if self._timer is not None:
                self._connection._adapter_remove_timeout(self._timer)
            self._done()


def _close(
    wrapped: Callable[..., None],
    connection: BlockingConnection,
    channels: list[Channel],
    args: _Args,
    kwargs: _Kwargs,
) -> None:
    ours = [channel for channel in channels if channel.is_open and watched.seen(channel)]
    try:
        # What goes wrong here with the connection, closing it says as ever.
        with suppress(AMQPError):
            _settle_up(connection, ours, 0)
    finally:
        wrapped(*args, **kwargs)


def _settle_up(connection: BlockingConnection, channels: list[Channel], grace: float) -> None:
    for channel in channels:
        with suppress(AMQPChannelError):  # the broker has closed it
            channel._get_cookie().stop_consuming()
    ending = _Ending(connection._impl, channels, grace, lambda: None)
    threads = [pool for channel in channels for pool in pools(channel)]
    while not ending.over:
        # Within a callback pika would not come to what threads have handed over.
        connection._flush_output(lambda: ending.over or any(pool.waited_for for pool in threads))
        for pool in threads:
            pool.catch_up()


def _open(connection: Connection) -> list[Channel]:
    return [channel for channel in connection._channels.values() if channel.is_open]
