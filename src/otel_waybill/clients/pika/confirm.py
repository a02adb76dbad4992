"""Publishing on asynchronous channels, where the broker's confirm comes later, by callback.

On a channel in confirm mode the span of a publish ends with its confirm, and a message that came back as
unroutable is an error of it. On any other channel nothing is known after the call, which is where it ends.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pika.adapters.blocking_connection import BlockingChannel, ReturnedMessage
from pika.channel import Channel
from pika.exceptions import ChannelClosedByClient, ConnectionClosedByClient, NackError, UnroutableError
from pika.spec import Basic, BasicProperties, Confirm

from otel_waybill import names
from otel_waybill.clients.pika import live
from otel_waybill.clients.pika.deliver import is_pikas
from otel_waybill.clients.pika.publish import started
from otel_waybill.clients.shared.ledger import Owned
from otel_waybill.guard import harmless
from otel_waybill.patching import argument, passthrough
from otel_waybill.telemetry.recorder import Recorder
from otel_waybill.telemetry.work import Work

if TYPE_CHECKING:
    from pika.frame import Method as Frame

_Args = tuple[object, ...]
_Kwargs = dict[str, object]

_tracing = harmless("tracing a publisher confirm")


def basic_publish(wrapped: Callable[..., None], channel: Channel, args: _Args, kwargs: _Kwargs) -> None:
    """Stand in for `Channel.basic_publish`; not called for what BlockingChannel and Twisted send by it.

    Raises:
        DeadlineExceeded: inside a request block whose deadline has passed; nothing is published.
    """
    work, (args, kwargs) = started(channel, args, kwargs)
    confirms = _confirms.seen(channel)
    if work is None:
        wrapped(*args, **kwargs)
        if confirms is not None:
            with _tracing:
                confirms.sent(channel, None)
        return
    try:
        with work.current(), passthrough():
            wrapped(*args, **kwargs)
    except BaseException as error:
        work.finish(error)
        raise
    waiting = False
    if confirms is not None:
        with _tracing:
            waiting = confirms.sent(channel, _Waiting(work, _returnable(args, kwargs)))
    if not waiting:
        work.finish()


def confirm_delivery(wrapped: Callable[..., None], channel: Channel, args: _Args, kwargs: _Kwargs) -> None:
    """Stand in for `Channel.confirm_delivery`: from now on the broker counts what is published."""
    recorder, confirms = live.recorder(), None
    if not recorder.silent and channel.is_open and _confirms.seen(channel) is None:
        with _tracing:
            callback = argument(args, kwargs, 0, "ack_nack_callback")
            # Blocking channels wait for their confirms, Twisted's have a Deferred for each.
            if not is_pikas(callback) and not isinstance(channel._get_cookie(), BlockingChannel):
                confirms = Confirms(recorder)
                confirms.listen(channel)
    try:
        wrapped(*args, **kwargs)
    except BaseException:
        if confirms is not None:
            with _tracing:
                confirms.deafen(channel)
        raise
    if confirms is not None:
        _confirms.put(channel, confirms)


class _Waiting(NamedTuple):
    """One publish that is not confirmed yet."""

    work: Work
    returnable: tuple[object, ...] | None


class Confirms:
    """The publishes of one channel that wait for their confirms; one each, in the order of sending."""

    MOST = 4096
    """A program that outruns its broker by more than that gets spans that end without a confirm."""

    def __init__(self, recorder: Recorder) -> None:
        """Count for *recorder*: under a later one, publishes in between would have gone uncounted."""
        self._recorder = recorder
        self._selected = False
        self._sequence = 0
        self._waiting: dict[int, _Waiting] = {}

    def listen(self, channel: Channel) -> None:
        """Hear what the broker says about publishes on *channel*, before the program does."""
        channel.add_callback(self._confirmed, [Basic.Ack, Basic.Nack], one_shot=False)
        channel.add_on_return_callback(self._returned)
        channel.add_on_close_callback(self._closed)

    def deafen(self, channel: Channel) -> None:
        """Take that back: the channel did not enter confirm mode."""
        number, callbacks = channel.channel_number, channel.callbacks
        for key in (Basic.Ack, Basic.Nack):
            callbacks.remove(number, key, self._confirmed)
        callbacks.remove(number, "_on_return", self._returned)
        callbacks.remove(number, "_on_channel_close", self._closed)

    def sent(self, channel: Channel, publish: _Waiting | None) -> bool:
        """Count one publish that has been sent; return whether *publish* will hear of its confirm."""
        if not self._selected:
            # pika keeps the request back while it waits for another answer, but not a publish.
            if any(isinstance(method, Confirm.Select) for method, *_ in channel._blocked):
                return False
            self._selected = True
        self._sequence += 1
        if publish is None or self._recorder is not live.recorder():
            return False
        if len(self._waiting) >= self.MOST:
            self._waiting.pop(next(iter(self._waiting))).work.finish()
        self._waiting[self._sequence] = publish
        return True

    def _confirmed(self, frame: "Frame[Basic.Ack | Basic.Nack]") -> None:
        with _tracing:
            method = frame.method
            error = NackError([]) if isinstance(method, Basic.Nack) else None
            if method.multiple:
                tags = [tag for tag in self._waiting if tag <= method.delivery_tag]
            else:
                tags = [method.delivery_tag]
            for tag in tags:
                publish = self._waiting.pop(tag, None)
                if publish is not None:
                    publish.work.finish(error)

    def _returned(
        self, _channel: Channel, method: Basic.Return, properties: BasicProperties, body: bytes
    ) -> None:
        # It comes before the confirm of the same message, and carries no sequence number.
        with _tracing:
            key = _identity(method.exchange, method.routing_key, properties)
            for tag, publish in self._waiting.items():
                if publish.returnable == key:
                    publish.work.fail(UnroutableError([ReturnedMessage(method, properties, body)]))
                    self._waiting[tag] = publish._replace(returnable=None)
                    return

    def _closed(self, _channel: Channel, reason: Exception) -> None:
        with _tracing:
            # Who closes a channel without waiting does not want to know.
            wanted = isinstance(reason, ChannelClosedByClient | ConnectionClosedByClient)
            waiting, self._waiting = self._waiting, {}
            for publish in waiting.values():
                publish.work.finish(None if wanted else reason)


_confirms: Owned[Confirms | None] = Owned("confirms", lambda: None)


def _returnable(args: _Args, kwargs: _Kwargs) -> tuple[object, ...] | None:
    """Return by what to know the message of a publish again, or None if the broker will not return it."""
    if not argument(args, kwargs, 4, "mandatory", default=False):
        return None
    exchange, routing_key = argument(args, kwargs, 0, "exchange"), argument(args, kwargs, 1, "routing_key")
    return _identity(exchange, routing_key, argument(args, kwargs, 3, "properties"))


def _identity(exchange: str, routing_key: str, properties: BasicProperties) -> tuple[object, ...]:
    trace = (properties.headers or {}).get(names.HEADER_TRACEPARENT)
    return exchange, routing_key, trace, properties.message_id, properties.correlation_id
