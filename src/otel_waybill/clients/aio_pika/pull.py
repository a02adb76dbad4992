"""Messages that a program fetches itself: by `Queue.get`, by iteration, and what it does with them.

A fetched message gets a receive span when it is handed over, never while it only sits in a prefetch buffer.
Its processing is measured where its beginning and end are known: in `async with message.process()`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import Token
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from aio_pika.exceptions import QueueEmpty
from aio_pika.message import IncomingMessage, ProcessContext
from aio_pika.queue import Queue, QueueIterator
from opentelemetry import context as otel
from opentelemetry.context import Context

from otel_waybill.clients.aio_pika import live
from otel_waybill.clients.aio_pika.read import channel_of, delivery, endpoint, endpoint_of, temporary
from otel_waybill.clients.aio_pika.settle import Fetched, fetched, ledgers
from otel_waybill.clients.aio_pika.standby import forget
from otel_waybill.clients.shared.arrival import arrive
from otel_waybill.guard import harmless
from otel_waybill.patching import argument, passthrough
from otel_waybill.telemetry.hooks import Message
from otel_waybill.telemetry.semconv import PROCESS, RECEIVE
from otel_waybill.telemetry.work import Work

if TYPE_CHECKING:
    from otel_waybill.telemetry.recorder import Recorder

_Args = tuple[object, ...]
_Kwargs = dict[str, object]

_tracing = harmless("tracing a received message")


class _Attached(NamedTuple):
    """A message's context that is current in the body of a loop."""

    token: Token[Context]
    task: asyncio.Task[object] | None


_entered: WeakKeyDictionary[QueueIterator, _Attached | None] = WeakKeyDictionary()
_processing: WeakKeyDictionary[ProcessContext, Work] = WeakKeyDictionary()


async def get(
    wrapped: Callable[..., Awaitable[IncomingMessage | None]], queue: Queue, args: _Args, kwargs: _Kwargs
) -> IncomingMessage | None:
    """Stand in for `Queue.get`; an empty queue is no message and leaves no trace."""
    since = time.perf_counter()
    try:
        message = await wrapped(*args, **kwargs)
    except QueueEmpty:
        raise
    except BaseException as error:
        _failed(queue, since, error)
        raise
    if message is not None:
        _handed_over(message, queue, since)
    return message


async def anext_(
    wrapped: Callable[..., Awaitable[IncomingMessage]], iterator: QueueIterator, args: _Args, kwargs: _Kwargs
) -> IncomingMessage:
    """Stand in for `QueueIterator.__anext__`.

    In a bare `async for` nothing tells that the body was left by `break`, so the message's context becomes
    current only inside `async with queue.iterator()`, which ends it.
    """
    _detach(iterator)
    message = await wrapped(*args, **kwargs)
    with _tracing:
        handed = _handed_over(message, iterator._amqp_queue, None)
        if handed is not None and iterator in _entered:
            token = otel.attach(handed.arrival.inside())
            _entered[iterator] = _Attached(token, asyncio.current_task())
    return message


async def aenter(
    wrapped: Callable[..., Awaitable[object]], iterator: QueueIterator, args: _Args, kwargs: _Kwargs
) -> object:
    """Stand in for `QueueIterator.__aenter__`: from now on the end of the loop is known."""
    result = await wrapped(*args, **kwargs)
    _entered[iterator] = None
    return result


async def aexit(
    wrapped: Callable[..., Awaitable[object]], iterator: QueueIterator, args: _Args, kwargs: _Kwargs
) -> object:
    """Stand in for `QueueIterator.__aexit__`."""
    _detach(iterator)
    _entered.pop(iterator, None)
    return await wrapped(*args, **kwargs)


async def close(
    wrapped: Callable[..., Awaitable[object]], iterator: QueueIterator, args: _Args, kwargs: _Kwargs
) -> object:
    """Stand in for `QueueIterator.close`: what it gives back by itself was never handed over."""
    tag, queue = iterator.consumer_tag, iterator._amqp_queue
    if tag is not None and not queue.channel.is_closed:
        await forget(queue, tag)
    with passthrough():
        return await wrapped(*args, **kwargs)


async def process_enter(
    wrapped: Callable[..., Awaitable[object]], scope: ProcessContext, args: _Args, kwargs: _Kwargs
) -> object:
    """Stand in for `ProcessContext.__aenter__`: a fetched message is processed in here."""
    result = await wrapped(*args, **kwargs)
    with _tracing:
        work = _processed(scope.message)
        if work is not None:
            _processing[scope] = work
            work.__enter__()
    return result


async def process_exit(
    wrapped: Callable[..., Awaitable[object]], scope: ProcessContext, args: _Args, kwargs: _Kwargs
) -> object:
    """Stand in for `ProcessContext.__aexit__`, which settles the message."""
    work = _processing.pop(scope, None)
    if work is None:
        return await wrapped(*args, **kwargs)
    error = argument(args, kwargs, 1, "exc_val")
    try:
        return await wrapped(*args, **kwargs)
    except BaseException as own:
        error = error or own
        raise
    finally:
        work.__exit__(None if error is None else type(error), error, None)


def _handed_over(message: IncomingMessage, queue: Queue, since: float | None) -> Fetched | None:
    recorder = live.recorder()
    with _tracing:
        channel, facts = channel_of(message), delivery(message, queue.name)
        about = Message(
            facts.exchange,
            facts.routing_key,
            queue.name,
            message,
            message.body,
            message.delivery_tag,
            temporary(queue),
        )
        if not message.processed:  # as one is from the start that need not be acknowledged
            ledgers.note(channel, about)
        if recorder.silent:
            return None
        arrival = arrive(facts, otel.get_current(), recorder)
        around = otel.get_current()
        recorder.start(RECEIVE, about, endpoint(channel), around, links=arrival.origin, since=since).finish()
        handed = Fetched(arrival, about._replace(properties=None, body=None))
        fetched.add(channel, message.delivery_tag, handed)
        return handed
    return None


def _failed(queue: Queue, since: float, error: BaseException) -> None:
    recorder = live.recorder()
    if not recorder.silent:
        with _tracing:
            about = Message(queue=queue.name)
            work = recorder.start(RECEIVE, about, endpoint_of(queue.channel), otel.get_current(), since=since)
            work.counted = False
            work.finish(error)


def _processed(message: IncomingMessage) -> Work | None:
    """Return the started processing of *message*, if it was fetched; a pushed one has its span already."""
    recorder: Recorder = live.recorder()
    channel = channel_of(message)
    handed = fetched.take(channel, message.delivery_tag)
    if handed is None or recorder.silent:
        return None
    about = handed.about._replace(properties=message, body=message.body)
    work = recorder.start(
        PROCESS, about, endpoint(channel), handed.arrival.inside(), links=handed.arrival.links
    )
    work.counted = False
    return work


def _detach(iterator: QueueIterator) -> None:
    attached = _entered.get(iterator)
    if attached is not None:
        _entered[iterator] = None
        # A token is only good in the task that got it.
        if attached.task is asyncio.current_task():
            otel.detach(attached.token)
