"""What pika calls when a message arrives, in place of the user's callback."""

from collections.abc import Callable
from typing import cast

from opentelemetry import context as otel
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from otel_waybill.clients.pika import live, settle, topology
from otel_waybill.clients.pika.copies import copies
from otel_waybill.clients.pika.enforce import Guard, Pull
from otel_waybill.clients.pika.read import AnyChannel, Pushed, ambient, delivery, endpoint, underlying
from otel_waybill.clients.shared.arrival import arrive
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

_tracing = harmless("tracing a delivery")
_prefetch: Owned[int] = Owned("prefetch", int)
_watched: Owned[bool] = Owned("watched", bool)
_queues: Owned[dict[str, str]] = Owned("queues", dict)


class Delivering:
    """A user's callback, with a process span around it and under its terms if it has any."""

    def __init__(self, handler: Handler, terms: Terms | None, queue: str, *, acknowledges: bool) -> None:
        self.__wrapped__ = handler
        self._terms = terms
        self._queue = queue
        self._acknowledges = acknowledges

    def __call__(
        self, channel: AnyChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> object:
        """Handle one delivery as pika calls it."""
        if self._terms is not None:  # which asynchronous channels do not have
            pushed = Pushed(cast("BlockingChannel", channel), method, properties, body)
            Guard(self._terms, self.__wrapped__, self._queue, pushed).drive()
            return None
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
        around = ambient() if channel is surface else otel.get_current()
        arrival = arrive(delivery(method, properties, self._queue), around, recorder)
        message = Message(
            method.exchange, method.routing_key, self._queue, properties, body, method.delivery_tag
        )
        if self._acknowledges:
            settle.ledgers.note(channel, message)
        return recorder.start(PROCESS, message, endpoint(channel), arrival.inside(), links=arrival.links)


def basic_consume(
    wrapped: Callable[..., str], channel: BlockingChannel, args: tuple[object, ...], kwargs: dict[str, object]
) -> str:
    """Stand in for `BlockingChannel.basic_consume`.

    Raises:
        InvalidPolicy: a policy was put on this consumer and cannot stand there.
    """
    queue = argument(args, kwargs, 0, "queue")
    callback = argument(args, kwargs, 1, "on_message_callback")
    if not isinstance(queue, str) or not callable(callback):
        return wrapped(*args, **kwargs)  # pika says what is wrong
    acknowledges = not argument(args, kwargs, 2, "auto_ack", default=False)
    consumer = Consumer(
        queue=queue, acknowledges=acknowledges, arguments=argument(args, kwargs, 5, "arguments")
    )
    handler, terms, passed = live.policies.bind(callback, consumer)
    if terms is not None:
        _prepare(channel, queue, terms)
        _limit_prefetch(channel, queue, terms)
    if not passed:
        delivering = Delivering(handler, terms, queue, acknowledges=acknowledges)
        args, kwargs = replaced(args, kwargs, 1, "on_message_callback", delivering)
    tag = wrapped(*args, **kwargs)
    _queues.of(channel._impl)[tag] = queue
    return tag


def basic_qos(
    wrapped: Callable[..., object], channel: Channel, args: tuple[object, ...], kwargs: dict[str, object]
) -> object:
    """Stand in for `Channel.basic_qos`: a prefetch that the program chose is left as it is."""
    count = argument(args, kwargs, 1, "prefetch_count", 0)
    if isinstance(count, int):
        _prefetch.put(channel, count)
    return wrapped(*args, **kwargs)


def direct(guarded: Guarded, pushed: Pushed) -> None:
    """Handle one delivery in a program that is not instrumented.

    Raises:
        InvalidPolicy: the policy was not told which queue this is.
    """
    queue = _queue(guarded.queue, pushed)
    _prepare(pushed.channel, queue, guarded.terms)
    Guard(guarded.terms, guarded.handler, queue, pushed).drive()


def run(terms: Terms, queue: str | None, pushed: Pushed, handler: Handler) -> Outcome:
    """Handle one delivery that the program fetched itself, and return how it ended.

    Raises:
        InvalidPolicy: the policy was not told which queue this is.
        AMQPError: the connection failed.
    """
    name = _queue(queue, pushed)
    _prepare(pushed.channel, name, terms)
    return Pull(terms, handler, name, pushed).complete()


def _queue(given: str | None, pushed: Pushed) -> str:
    _check_blocking(pushed.channel)
    channel, method = pushed.channel._impl, pushed.method
    consumed = _queues.of(channel).get(getattr(method, "consumer_tag", ""))
    return known_queue(given or consumed or settle.ledgers.about(channel, method.delivery_tag).queue)


def _check_blocking(channel: object) -> None:
    if not isinstance(channel, BlockingChannel):
        msg = "a policy cannot run on pika's asynchronous channels yet; consume on a BlockingConnection"
        raise InvalidPolicy(msg)


def _prepare(channel: BlockingChannel, queue: str, terms: Terms) -> None:
    """Have everything ready that a failure will need: nothing is declared at that moment."""
    # Its answer comes before that to a declaration that is made after it.
    copies(channel.connection)
    topology.prepare(channel.connection, queue, terms.spec)
    _watch(channel._impl)


def _watch(channel: Channel) -> None:
    """Have deliveries that wait on *channel* end with it: timers of a dead connection never fire."""
    if not _watched.seen(channel):
        _watched.put(channel, True)  # noqa: FBT003 - the value, not a flag of the call
        channel.add_on_close_callback(_on_close)


def _on_close(channel: Channel, _reason: Exception) -> None:
    for guard in list(settle.ledgers.of(channel).entries.values()):
        guard.gone()


def _limit_prefetch(channel: BlockingChannel, queue: str, terms: Terms) -> None:
    seen = _prefetch.seen(channel._impl)
    check_prefetch(seen, queue)
    if seen is None:
        with passthrough():
            channel.basic_qos(prefetch_count=terms.spec.prefetch_count)
