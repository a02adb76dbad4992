"""Receiving on asynchronous channels, where an event loop calls: Select, asyncio, Tornado, Gevent."""

import time
from collections.abc import Callable

from opentelemetry import context as otel
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from otel_waybill.clients.pika import deliver, live
from otel_waybill.clients.pika.pull import handed_over
from otel_waybill.clients.shared.policies import Consumer
from otel_waybill.context import Attached
from otel_waybill.patching import argument, replaced
from otel_waybill.resilience.guarded import Guarded

_Args = tuple[object, ...]
_Kwargs = dict[str, object]


def basic_consume(wrapped: Callable[..., str], channel: Channel, args: _Args, kwargs: _Kwargs) -> str:
    """Stand in for `Channel.basic_consume`; Twisted's adapter has its InvalidPolicy fail a Deferred.

    Raises:
        InvalidPolicy: a policy was put on this consumer and cannot stand there.
    """
    callback = argument(args, kwargs, 1, "on_message_callback")
    if isinstance(getattr(callback, "__self__", None), BlockingChannel):
        return wrapped(*args, **kwargs)  # the door is BlockingChannel.basic_consume
    return deliver.basic_consume(wrapped, channel, args, kwargs)


def basic_get(wrapped: Callable[..., None], _: Channel, args: _Args, kwargs: _Kwargs) -> None:
    """Stand in for `Channel.basic_get`, which calls back if there is a message.

    Raises:
        InvalidPolicy: the callback is wrapped in a policy, which cannot stand there.
    """
    callback = argument(args, kwargs, 1, "callback")
    if callable(callback) and not deliver.is_pikas(callback):
        queue = argument(args, kwargs, 0, "queue")
        acknowledges = not argument(args, kwargs, 2, "auto_ack", default=False)
        if isinstance(callback, Guarded):
            live.policies.bind(callback, Consumer(queue=queue, acknowledges=acknowledges))
        getting = _Getting(callback, queue, acknowledges=acknowledges)
        args, kwargs = replaced(args, kwargs, 1, "callback", getting)
    return wrapped(*args, **kwargs)


class _Getting:
    """A callback of `Channel.basic_get`: called once, with the message's context current."""

    def __init__(self, callback: Callable[..., object], queue: str, *, acknowledges: bool) -> None:
        self.__wrapped__ = callback
        self._queue = queue
        self._acknowledges = acknowledges
        self._around = otel.get_current()
        self._since = time.perf_counter()

    def __call__(
        self, channel: Channel, method: Basic.GetOk, properties: BasicProperties, body: bytes
    ) -> object:
        """Handle the message as pika calls it."""
        context = handed_over(
            channel,
            (method, properties, body),
            self._queue,
            acknowledges=self._acknowledges,
            around=self._around,
            since=self._since,
        )
        if context is None:
            return self.__wrapped__(channel, method, properties, body)
        with Attached(context):
            return self.__wrapped__(channel, method, properties, body)
