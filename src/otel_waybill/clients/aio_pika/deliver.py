"""What aio-pika calls when a message arrives, in place of the user's callback."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

import aio_pika.tools
from aio_pika.channel import Channel
from aio_pika.message import IncomingMessage
from aio_pika.queue import Queue, QueueIterator
from aiormq.abc import AbstractChannel

from otel_waybill.clients.aio_pika import live, topology
from otel_waybill.clients.aio_pika.copies import copies
from otel_waybill.clients.aio_pika.enforce import Guard
from otel_waybill.clients.aio_pika.read import (
    ambient,
    channel_of,
    delivery,
    endpoint,
    temporary,
    underlay_of,
)
from otel_waybill.clients.aio_pika.settle import ledgers
from otel_waybill.clients.aio_pika.standby import Consuming, consumers
from otel_waybill.clients.aio_pika.tasks import kept
from otel_waybill.clients.shared.arrival import arrive
from otel_waybill.clients.shared.declared import kind_of, note
from otel_waybill.clients.shared.ledger import Owned
from otel_waybill.clients.shared.policies import Consumer, check_prefetch, known_queue
from otel_waybill.core.delivery import Outcome
from otel_waybill.errors import InvalidPolicy
from otel_waybill.guard import harmless
from otel_waybill.patching import argument, replaced
from otel_waybill.resilience.guarded import Guarded, Handler, Terms
from otel_waybill.telemetry.hooks import Message
from otel_waybill.telemetry.recorder import Recorder
from otel_waybill.telemetry.semconv import PROCESS
from otel_waybill.telemetry.work import Work

Callback = Callable[[IncomingMessage], Awaitable[object]]

_noting = harmless("noting the kind of a queue")
_tracing = harmless("tracing a delivery")
_prefetch: Owned[int] = Owned("prefetch", int)


async def consume(
    wrapped: Callable[..., Awaitable[str]], queue: Queue, args: tuple[object, ...], kwargs: dict[str, object]
) -> str:
    """Stand in for `Queue.consume`, which robust queues call again when they reconnect.

    Raises:
        InvalidPolicy: a policy was put on this consumer and cannot stand there.
    """
    callback = argument(args, kwargs, 0, "callback")
    if not callable(callback):
        return await wrapped(*args, **kwargs)  # aio-pika says what is wrong
    kind = kind_of((await underlay_of(queue.channel)).connection, queue.name)
    consumer = Consumer(
        queue=queue.name,
        acknowledges=not argument(args, kwargs, 1, "no_ack", default=False),
        exclusive=kind.exclusive or bool(queue.exclusive),
        stream=kind.stream,
        arguments=argument(args, kwargs, 3, "arguments"),
        pulled=isinstance(getattr(callback, "__self__", None), QueueIterator),
    )
    handler, terms, passed = live.policies.bind(callback, consumer)
    if terms is not None:
        await _limit_prefetch(queue, terms)
        await _prepare(await underlay_of(queue.channel), queue.name, terms, anew=True)
    if not (consumer.pulled or passed):
        delivering = _delivering(handler, terms, queue, acknowledges=consumer.acknowledges)
        args, kwargs = replaced(args, kwargs, 0, "callback", delivering)
    tag = await wrapped(*args, **kwargs)
    consumers.of(await underlay_of(queue.channel))[tag] = Consuming(
        queue=queue.name,
        cancel=None if consumer.pulled else queue.cancel,
        exclusive=argument(args, kwargs, 2, "exclusive", default=False),
        arguments=argument(args, kwargs, 3, "arguments"),
    )
    return tag


async def declare(
    wrapped: Callable[..., Awaitable[object]],
    queue: Queue,
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> object:
    """Stand in for `Queue.declare`: it tells on which queues no policy can stand."""
    answer = await wrapped(*args, **kwargs)
    if not queue.passive:
        with _noting:
            connection = (await underlay_of(queue.channel)).connection
            note(connection, queue.name, exclusive=bool(queue.exclusive), arguments=queue.arguments)
    return answer


def set_qos(
    wrapped: Callable[..., Awaitable[object]],
    channel: Channel,
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> Awaitable[object]:
    """Stand in for `Channel.set_qos`: a prefetch that the program chose is left as it is."""
    count = argument(args, kwargs, 0, "prefetch_count", 0)
    if isinstance(count, int):
        _prefetch.put(channel, count)
        # What a queue of aio-pika 9.0 calls its channel.
        underlay = getattr(channel, "_channel", None)
        if underlay is not None:
            _prefetch.put(underlay.channel, count)
    return wrapped(*args, **kwargs)


def direct(guarded: Guarded, message: IncomingMessage) -> asyncio.Task[Outcome]:
    """Handle one delivery in a program that is not instrumented.

    In a task, because aio-pika 9.0 calls what is no coroutine function without awaiting what it returns.

    Raises:
        InvalidPolicy: by the task; the policy was not told which queue this is.
    """
    task = kept(_run(guarded.terms, guarded.queue, message, guarded.handler, pushed=True))
    if _ensure_awaitable is _awaited:
        task.add_done_callback(_reported)
    return task


async def run(terms: Terms, queue: str | None, message: IncomingMessage, handler: Handler) -> Outcome:
    """Handle one delivery that the program fetched itself, and return how it ended.

    Raises:
        InvalidPolicy: the policy was not told which queue this is, or there is nothing left to settle.
    """
    if message.processed:
        msg = (
            "a policy cannot run a message that is settled already, or was fetched with no_ack, because "
            "nothing could be retried; fetch it without no_ack, and leave the settling to the policy"
        )
        raise InvalidPolicy(msg)
    return await _run(terms, queue, message, handler, pushed=False)


async def _run(
    terms: Terms, queue: str | None, message: IncomingMessage, handler: Handler, *, pushed: bool
) -> Outcome:
    channel = channel_of(message)
    consuming = consumers.of(channel).get(message.consumer_tag or "")
    consumed = None if consuming is None else consuming.queue
    known = ledgers.about(channel, message.delivery_tag)
    name = known_queue(queue or consumed or known.queue)
    # Entered in the ledger before anything is awaited, so that no ack of another speaks for it.
    guard = Guard(terms.holding(), handler, name, message, temporary=known.temporary, pushed=pushed)
    try:
        await _prepare(channel, name, terms)
    except BaseException:
        guard.leave()
        raise
    return await guard.drive()


def _delivering(handler: Handler, terms: Terms | None, queue: Queue, *, acknowledges: bool) -> Callback:
    """Return what to give to aio-pika in place of *handler*, sync or async, as which it is called."""
    callback: Callback = _ensure_awaitable(handler)
    if terms is not None:

        async def guarded(message: IncomingMessage) -> None:
            await Guard(terms, callback, queue.name, message, temporary=temporary(queue)).drive()

        return guarded

    async def traced(message: IncomingMessage) -> object:
        recorder, work = live.recorder(), None
        if not recorder.silent:
            with _tracing:
                work = _work(recorder, message, queue, acknowledges=acknowledges)
        if work is None:
            return await callback(message)
        with work:
            return await callback(message)

    return traced


def _awaited(handler: Handler) -> Callback:
    """Stand in for `ensure_awaitable`, which came with aio-pika 9.1."""

    async def callback(message: IncomingMessage) -> object:
        result = handler(message)
        return await result if inspect.isawaitable(result) else result

    return callback


def _reported(task: asyncio.Task[Outcome]) -> None:
    """Tell the loop what ended *task*, as aio-pika does since it awaits what a callback returns."""
    if not task.cancelled() and (error := task.exception()) is not None:
        message = "otel-waybill: a delivery under a policy ended with an exception"
        task.get_loop().call_exception_handler({"message": message, "exception": error, "task": task})


_ensure_awaitable: Callable[[Handler], Callback] = getattr(aio_pika.tools, "ensure_awaitable", _awaited)


def _work(recorder: Recorder, message: IncomingMessage, queue: Queue, *, acknowledges: bool) -> Work:
    arrival = arrive(delivery(message, queue.name), ambient(), recorder)
    channel, facts = channel_of(message), arrival.delivery
    about = Message(
        facts.exchange,
        facts.routing_key,
        queue.name,
        message,
        message.body,
        message.delivery_tag,
        temporary(queue),
    )
    if acknowledges:
        ledgers.note(channel, about)
    return recorder.start(PROCESS, about, endpoint(channel), arrival.inside(), links=arrival.links)


async def _prepare(channel: AbstractChannel, queue: str, terms: Terms, *, anew: bool = False) -> None:
    """Have everything ready that a failure will need: nothing is declared at that moment."""
    await topology.prepare(channel.connection, queue, terms.spec, anew=anew)
    await copies(channel.connection).open()


async def _limit_prefetch(queue: Queue, terms: Terms) -> None:
    seen = _prefetch.seen(queue.channel)
    check_prefetch(seen, queue.name)
    if seen is None:
        # Not by set_qos: that of a robust channel waits until it is restored, and this is part of restoring.
        underlay = await underlay_of(queue.channel)
        await underlay.basic_qos(prefetch_count=terms.spec.prefetch_count)
