"""Messages that a program fetches itself: by `basic_get`, or in a loop over `consume()`.

A fetched message gets a receive span when it is handed over, never while it only sits in a buffer, and none
when pika gives it back by itself.
"""

import time
from collections.abc import Callable, Generator, Iterator

from opentelemetry import context as otel
from opentelemetry.context import Context
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from otel_waybill.clients.pika import live
from otel_waybill.clients.pika.read import delivery, endpoint
from otel_waybill.clients.pika.scope import Body
from otel_waybill.clients.pika.settle import ledgers
from otel_waybill.clients.shared.arrival import arrive
from otel_waybill.clients.shared.ledger import Owned, Table
from otel_waybill.clients.shared.policies import Consumer
from otel_waybill.guard import harmless
from otel_waybill.patching import argument, passthrough
from otel_waybill.telemetry.hooks import Message
from otel_waybill.telemetry.semconv import RECEIVE

_Args = tuple[object, ...]
_Kwargs = dict[str, object]
Got = tuple[Basic.GetOk, BasicProperties, bytes] | tuple[None, None, None]
Step = tuple[Basic.Deliver, BasicProperties, bytes] | tuple[None, None, None]
Steps = Generator[Step, None, None]

_tracing = harmless("tracing a received message")
_bodies: Owned[Body | None] = Owned("body", lambda: None)

acknowledged: Table[bool] = Table("acknowledged")
"""What a program fetched with auto_ack: nothing is left to settle."""


def basic_get(wrapped: Callable[..., Got], channel: BlockingChannel, args: _Args, kwargs: _Kwargs) -> Got:
    """Stand in for `BlockingChannel.basic_get`; an empty queue is no message and leaves no trace."""
    queue, since = argument(args, kwargs, 0, "queue"), time.perf_counter()
    try:
        got = wrapped(*args, **kwargs)
    except BaseException as error:
        failed(channel._impl, queue, error, otel.get_current(), since)
        raise
    acknowledges = not argument(args, kwargs, 1, "auto_ack", default=False)
    if not acknowledges and got[0] is not None:
        acknowledged.add(channel._impl, got[0].delivery_tag, True)  # noqa: FBT003 - the value, not a flag
    handed_over(channel._impl, got, queue, acknowledges=acknowledges, since=since)
    return got


def consume(wrapped: Callable[..., Steps], channel: BlockingChannel, args: _Args, kwargs: _Kwargs) -> Steps:
    """Stand in for `BlockingChannel.consume`.

    In the body of the loop the message's context is current. It ends with the next step, and when the loop
    is left, however that happens: `for` then drops its generator, which closes it. A program that holds the
    generator in a variable of its own ends it by stepping or closing it, or by `channel.cancel()`, as pika
    asks for anyway.

    Raises:
        InvalidPolicy: a policy was put on this queue by name, and cannot know when a body has ended.
    """
    acknowledges = not argument(args, kwargs, 1, "auto_ack", default=False)
    queue = argument(args, kwargs, 0, "queue")
    if not isinstance(queue, str):
        return wrapped(*args, **kwargs)  # pika says what is wrong
    if channel._queue_consumer_generator is None:  # the loop begins; otherwise one goes on
        live.policies.bind(_stepping, Consumer(queue=queue, acknowledges=acknowledges, pulled=True))
    return _stepping(wrapped(*args, **kwargs), channel, queue, acknowledges=acknowledges)


def cancel(wrapped: Callable[..., object], channel: BlockingChannel, args: _Args, kwargs: _Kwargs) -> object:
    """Stand in for `BlockingChannel.cancel`, which ends the loop over `consume()`."""
    body = _bodies.seen(channel)
    if body is not None:
        with _tracing:
            body.leave()
    return give_back(wrapped, channel, args, kwargs)


def give_back(wrapped: Callable[..., object], _: BlockingChannel, args: _Args, kwargs: _Kwargs) -> object:
    """Stand in for `BlockingChannel.basic_cancel`: what pika rejects by itself was never delivered."""
    with passthrough():
        return wrapped(*args, **kwargs)


def handed_over(  # noqa: PLR0913 - what is known of one message, each part by its name
    channel: Channel,
    message: Got | Step,
    queue: str,
    *,
    acknowledges: bool,
    around: Context | None = None,
    since: float | None = None,
) -> Context | None:
    """Record that the program got a message, and return the context to process it in; None without one.

    Args:
        channel: on which it came.
        message: as pika gave it; three times None where there was none.
        queue: from which it came.
        acknowledges: whether it is to be settled.
        around: the context of the program that asked for it, the current one by default.
        since: ``time.perf_counter()`` at which it asked.
    """
    recorder = live.recorder()
    with _tracing:
        method, properties, body = message
        if method is None or properties is None:
            return None
        about = Message(method.exchange, method.routing_key, queue, properties, body, method.delivery_tag)
        if acknowledges:
            ledgers.note(channel, about)
        if recorder.silent:
            return None
        around = otel.get_current() if around is None else around
        arrival = arrive(delivery(method, properties, queue), around, recorder)
        recorder.start(RECEIVE, about, endpoint(channel), around, links=arrival.origin, since=since).finish()
        return arrival.inside()
    return None


def failed(channel: Channel, queue: object, error: BaseException, around: Context, since: float) -> None:
    """Record that the program asked for a message and got an *error*."""
    recorder = live.recorder()
    if isinstance(queue, str) and not recorder.silent:
        with _tracing:
            work = recorder.start(RECEIVE, Message(queue=queue), endpoint(channel), around, since=since)
            work.counted = False
            work.finish(error)


def _stepping(
    deliveries: Iterator[Step], channel: BlockingChannel, queue: str, *, acknowledges: bool
) -> Steps:
    body = Body()
    try:
        for step in deliveries:
            context = handed_over(channel._impl, step, queue, acknowledges=acknowledges)
            with _tracing:
                _enter(body, channel, context)
            yield step
            with _tracing:
                body.leave()
    finally:
        with _tracing:
            body.leave()


def _enter(body: Body, channel: BlockingChannel, context: Context | None) -> None:
    previous = _bodies.seen(channel)
    if previous is not None and previous is not body:
        # A loop that was left with its generator still in somebody's hands.
        previous.leave()
    if context is not None:
        _bodies.put(channel, body)
        body.enter(context)
