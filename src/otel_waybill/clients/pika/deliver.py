"""What pika calls when a message arrives, in place of the user's callback."""

import logging
from collections.abc import Callable
from functools import partial

from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Basic, BasicProperties

from otel_waybill.clients.pika import live, settle, standby, topology, workers
from otel_waybill.clients.pika.copies import copies
from otel_waybill.clients.pika.enforce import Guard
from otel_waybill.clients.pika.fetched import Pull
from otel_waybill.clients.pika.pull import acknowledged
from otel_waybill.clients.pika.read import AnyChannel, Method, Pushed, ambient, delivery, endpoint, underlying
from otel_waybill.clients.pika.standby import Consuming, consumers
from otel_waybill.clients.pika.threaded import Threaded
from otel_waybill.clients.pika.topology import Declaration
from otel_waybill.clients.shared.arrival import arrive
from otel_waybill.clients.shared.declared import kind_of, note
from otel_waybill.clients.shared.ledger import Owned
from otel_waybill.clients.shared.policies import Consumer, check_prefetch, known_queue
from otel_waybill.core.delivery import Outcome
from otel_waybill.errors import InvalidPolicy
from otel_waybill.guard import harmless
from otel_waybill.patching import argument, passthrough, replaced
from otel_waybill.resilience.guarded import Guarded, Handler, Terms
from otel_waybill.telemetry.hooks import Message
from otel_waybill.telemetry.recorder import Recorder
from otel_waybill.telemetry.semconv import PROCESS
from otel_waybill.telemetry.work import Work

_PRECONDITION_FAILED = 406
_log = logging.getLogger("otel_waybill")
_noting = harmless("noting the kind of a queue")
_tracing = harmless("tracing a delivery")
_prefetch: Owned[int] = Owned("prefetch", int)
watched: Owned[bool] = Owned("watched", bool)
"""The channels on which a policy stands, or has stood."""


class Policed:
    """A user's callback under a policy."""

    def __init__(self, handler: Handler, terms: Terms, queue: str, ready: Declaration) -> None:
        self.__wrapped__ = handler
        self._terms = terms
        self._queue = queue
        self._ready = ready

    def __call__(self, channel: AnyChannel, method: Method, properties: BasicProperties, body: bytes) -> None:
        """Handle one delivery as pika calls it; it is held until all that a failure needs is declared."""
        pushed = Pushed(channel, method, properties, body)
        kind = Threaded if self._terms.spec.workers else Guard
        self._ready.then(kind(self._terms, self.__wrapped__, self._queue, pushed).drive)


class Delivering:
    """A user's callback, with a process span around it."""

    def __init__(self, handler: Handler, queue: str, *, acknowledges: bool) -> None:
        self.__wrapped__ = handler
        self._queue = queue
        self._acknowledges = acknowledges

    def __call__(
        self, channel: AnyChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> object:
        """Handle one delivery as pika calls it."""
        recorder, work = live.recorder(), None
        if not recorder.silent:
            with _tracing:
                work = self._work(recorder, channel, method, properties, body)
        if work is None:
            return self.__wrapped__(channel, method, properties, body)
        with work:
            return self.__wrapped__(channel, method, properties, body)

    def _work(
        self,
        recorder: Recorder,
        surface: AnyChannel,
        method: Basic.Deliver,
        properties: BasicProperties,
        body: bytes,
    ) -> Work:
        channel = underlying(surface)
        arrival = arrive(delivery(method, properties, self._queue), ambient(surface), recorder)
        message = Message(
            method.exchange, method.routing_key, self._queue, properties, body, method.delivery_tag
        )
        if self._acknowledges:
            settle.ledgers.note(channel, message)
        return recorder.start(PROCESS, message, endpoint(channel), arrival.inside(), links=arrival.links)


def basic_consume(
    wrapped: Callable[..., str], channel: AnyChannel, args: tuple[object, ...], kwargs: dict[str, object]
) -> str:
    """Stand in for `BlockingChannel.basic_consume`, and for `Channel.basic_consume` where that is the door.

    Raises:
        InvalidPolicy: a policy was put on this consumer and cannot stand there.
    """
    queue = argument(args, kwargs, 0, "queue")
    callback = argument(args, kwargs, 1, "on_message_callback")
    if not isinstance(queue, str) or not callable(callback):
        return wrapped(*args, **kwargs)  # pika says what is wrong
    acknowledges = not argument(args, kwargs, 2, "auto_ack", default=False)
    kind = kind_of(underlying(channel).connection, queue)
    consumer = Consumer(
        queue=queue,
        acknowledges=acknowledges,
        exclusive=kind.exclusive,
        stream=kind.stream,
        indirect=is_pikas(callback),
        arguments=argument(args, kwargs, 5, "arguments"),
    )
    handler, terms, passed = live.policies.bind(callback, consumer)
    if terms is not None:
        _check_prefetch(channel, queue)
        policed = Policed(handler, terms, queue, _prepare(channel, queue, terms, anew=True))
        _limit_prefetch(channel, terms)
        args, kwargs = replaced(args, kwargs, 1, "on_message_callback", policed)
    elif not passed and not consumer.indirect:
        delivering = Delivering(handler, queue, acknowledges=acknowledges)
        args, kwargs = replaced(args, kwargs, 1, "on_message_callback", delivering)
    tag = wrapped(*args, **kwargs)
    consuming = Consuming(
        queue=queue,
        exclusive=argument(args, kwargs, 3, "exclusive", default=False),
        arguments=argument(args, kwargs, 5, "arguments"),
    )
    standby.begun(underlying(channel), tag, consuming)
    return tag


def is_pikas(callback: object) -> bool:
    """Return whether *callback* belongs to an adapter of pika's, which hands on what it gets.

    Those of BlockingChannel and Twisted do, and ThreadSafeChannel's, which no release has yet.
    """
    return (getattr(callback, "__module__", None) or "").startswith("pika.adapters.")


def basic_qos(
    wrapped: Callable[..., object], channel: Channel, args: tuple[object, ...], kwargs: dict[str, object]
) -> object:
    """Stand in for `Channel.basic_qos`: a prefetch that the program chose is left as it is."""
    count = argument(args, kwargs, 1, "prefetch_count", 0)
    if isinstance(count, int):
        _prefetch.put(channel, count)
    return wrapped(*args, **kwargs)


def queue_declare(
    wrapped: Callable[..., object], channel: Channel, args: tuple[object, ...], kwargs: dict[str, object]
) -> object:
    """Stand in for `Channel.queue_declare`: it tells on which queues no policy can stand."""
    queue = argument(args, kwargs, 0, "queue")
    if isinstance(queue, str) and not argument(args, kwargs, 1, "passive", default=False):
        with _noting:
            exclusive = argument(args, kwargs, 3, "exclusive", default=False)
            arguments = argument(args, kwargs, 5, "arguments")
            note(channel.connection, queue, exclusive=exclusive, arguments=arguments)
    return wrapped(*args, **kwargs)


def direct(guarded: Guarded, pushed: Pushed) -> None:
    """Handle one delivery that pika gave to the wrapped handler itself.

    Raises:
        InvalidPolicy: the policy was not told which queue this is, or cannot stand on such a channel.
    """
    queue = _queue(guarded.queue, pushed)
    ready = _prepare(pushed.channel, queue, guarded.terms)
    Policed(guarded.handler, guarded.terms.holding(), queue, ready)(*pushed)


def run(terms: Terms, queue: str | None, pushed: Pushed, handler: Handler) -> Outcome:
    """Handle one delivery that the program fetched itself, and return how it ended.

    Raises:
        InvalidPolicy: the policy was not told which queue this is, nobody can wait on such a channel, or the
            message was fetched with auto_ack.
        AMQPError: the connection failed.
    """
    if not isinstance(pushed.channel, BlockingChannel):
        msg = (
            "run cannot wait for the outcome on an asynchronous channel of pika; give "
            "policy.wrap(handler, queue=...) to its basic_consume or basic_get instead"
        )
        raise InvalidPolicy(msg)
    if acknowledged.take(pushed.channel._impl, pushed.method.delivery_tag):
        msg = (
            "a policy cannot run a message that was fetched with auto_ack, because nothing could be retried; "
            "fetch it without auto_ack, and leave the settling to the policy"
        )
        raise InvalidPolicy(msg)
    name = _queue(queue, pushed)
    _prepare(pushed.channel, name, terms)
    return Pull(terms.holding(), handler, name, pushed).complete()


def _queue(given: str | None, pushed: Pushed) -> str:
    if not isinstance(pushed.channel, AnyChannel):
        msg = (
            "a policy can stand on a BlockingChannel or a Channel of pika's, "
            f"got a {type(pushed.channel).__name__}; use another adapter"
        )
        raise InvalidPolicy(msg)
    channel, method = underlying(pushed.channel), pushed.method
    consuming = consumers.of(channel).get(getattr(method, "consumer_tag", ""))
    consumed = None if consuming is None else consuming.queue
    return known_queue(given or consumed or settle.ledgers.about(channel, method.delivery_tag).queue)


def _prepare(channel: AnyChannel, queue: str, terms: Terms, *, anew: bool = False) -> Declaration:
    """Have everything ready that a failure will need: nothing is declared at that moment.

    On a blocking channel it is ready on return; any other is closed when it turns out that it cannot be.
    """
    # Its answer comes before that to a declaration that is made after it.
    copies(channel)
    declaration = topology.declare(channel, queue, terms.spec, anew=anew)
    _watch(underlying(channel))
    if isinstance(channel, BlockingChannel):
        declaration.wait(channel.connection)
    else:
        declaration.otherwise(partial(_give_up, channel))
    return declaration


def _give_up(channel: Channel, error: Exception) -> None:
    """Close *channel*, whose consumer cannot have its policy; the broker gets back what it had sent."""
    refused = isinstance(error, InvalidPolicy | ChannelClosedByBroker)
    if refused and channel.is_open:
        _log.error("closing %r, because its policy cannot be kept: %s", channel, error)
        # AMQP's short strings end at 255 bytes.
        channel.close(_PRECONDITION_FAILED, str(error).encode()[:255].decode(errors="ignore"))


def _watch(channel: Channel) -> None:
    """Have deliveries that wait on *channel* end with it: timers of a dead connection never fire."""
    if not watched.seen(channel):
        watched.put(channel, True)  # noqa: FBT003 - the value, not a flag of the call
        channel.add_on_close_callback(_on_close)


def _on_close(channel: Channel, _reason: Exception) -> None:
    for guard in list(settle.ledgers.of(channel).entries.values()):
        guard.gone()
    workers.close(channel)


def _check_prefetch(channel: AnyChannel, queue: str) -> None:
    check_prefetch(_prefetch.seen(underlying(channel)), queue)


def _limit_prefetch(channel: AnyChannel, terms: Terms) -> None:
    if _prefetch.seen(underlying(channel)) is None:
        with passthrough():
            channel.basic_qos(prefetch_count=terms.spec.prefetch_count)
