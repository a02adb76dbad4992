"""Twisted's adapter: publishes end with their Deferreds, and messages are fetched.

Imported only once the program has imported that adapter, because it installs Twisted's default reactor.
Deferreds have no scope in which a message's context could be current, so there are receive spans only.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from opentelemetry import context as otel
from opentelemetry.context import Context
from pika.adapters.twisted_connection import ClosableDeferredQueue, ReceivedMessage, TwistedChannel
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from otel_waybill.clients.pika.publish import started
from otel_waybill.clients.pika.pull import failed, handed_over
from otel_waybill.guard import harmless
from otel_waybill.patching import PatchSet, argument, passthrough
from otel_waybill.telemetry.work import Work

_Args = tuple[object, ...]
_Kwargs = dict[str, object]
T = TypeVar("T")

_tracing = harmless("tracing on Twisted")


def add_to(patches: PatchSet) -> None:
    """Enter what is replaced here into *patches*."""
    patches.add(TwistedChannel, "basic_publish", basic_publish)
    patches.add(TwistedChannel, "basic_get", basic_get)
    patches.add(ClosableDeferredQueue, "get", queue_get)


def basic_publish(
    wrapped: Callable[..., Deferred[T]], channel: TwistedChannel, args: _Args, kwargs: _Kwargs
) -> Deferred[T]:
    """Stand in for `TwistedChannel.basic_publish`: in confirm mode its Deferred waits for the confirm.

    Raises:
        DeadlineExceeded: inside a request block whose deadline has passed; nothing is published.
    """
    work, (args, kwargs) = started(channel._channel, args, kwargs)
    if work is None:
        return wrapped(*args, **kwargs)
    try:
        with work.current(), passthrough():
            sent = wrapped(*args, **kwargs)
    except BaseException as error:
        work.finish(error)
        raise
    with _tracing:
        sent.addBoth(_finished, work)
    return sent


def basic_get(
    wrapped: Callable[..., Deferred[ReceivedMessage | None]],
    channel: TwistedChannel,
    args: _Args,
    kwargs: _Kwargs,
) -> Deferred[ReceivedMessage | None]:
    """Stand in for `TwistedChannel.basic_get`; an empty queue is no message and leaves no trace."""
    queue, since, around = argument(args, kwargs, 0, "queue"), time.perf_counter(), otel.get_current()
    acknowledges = not argument(args, kwargs, 1, "auto_ack", default=False)

    def got(message: ReceivedMessage | None) -> ReceivedMessage | None:
        if message is not None:
            handed_over(
                channel._channel,
                message[1:],
                queue,
                acknowledges=acknowledges,
                around=around,
                since=since,
            )
        return message

    def not_got(failure: Failure) -> Failure:
        if failure.value is not None:
            failed(channel._channel, queue, failure.value, around, since)
        return failure

    getting = wrapped(*args, **kwargs)
    with _tracing:
        getting.addCallbacks(got, not_got)
    return getting


def queue_get(
    wrapped: Callable[..., Deferred[Any]], _: ClosableDeferredQueue, args: _Args, kwargs: _Kwargs
) -> Deferred[Any]:  # Any: whatever is put there, see _consumed
    """Stand in for `ClosableDeferredQueue.get`: now the program gets what was only buffered before."""
    getting = wrapped(*args, **kwargs)
    with _tracing:
        getting.addCallback(_consumed, otel.get_current())
    return getting


def _finished(result: T, work: Work) -> T:
    work.finish(result.value if isinstance(result, Failure) else None)
    return result


def _consumed(message: T, around: Context) -> T:
    with _tracing:
        if isinstance(message, ReceivedMessage):
            channel: TwistedChannel = message.channel
            tag = message.method.consumer_tag
            tags = channel._queue_name_to_consumer_tags
            queue = next((queue for queue, consumers in tags.items() if tag in consumers), "")
            acknowledges = tag not in channel._channel._consumers_with_noack
            handed_over(channel._channel, message[1:], queue, acknowledges=acknowledges, around=around)
    return message
