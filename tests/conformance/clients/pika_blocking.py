"""pika's BlockingConnection, driven by the thread of the test."""

import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from typing import Any, ClassVar, cast

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker, UnroutableError
from pika.spec import Basic, BasicProperties

from conformance.protocol import Features, Handler, Native, Properties, Received
from otel_waybill import Outcome, Policy

AnyChannel = BlockingChannel | Channel

_MOMENT = 0.01


class PikaReceived:
    """One delivery of pika."""

    def __init__(
        self, channel: AnyChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        self.channel, self.method, self.own, self.body = channel, method, properties, body
        self.exchange: str = method.exchange
        self.routing_key: str = method.routing_key
        self.redelivered = bool(method.redelivered)
        self.headers: Mapping[str, object] = properties.headers or {}
        self.properties = neutral(properties)

    async def ack(self, *, multiple: bool = False) -> None:
        """Acknowledge it."""
        self.channel.basic_ack(self.method.delivery_tag, multiple=multiple)

    async def nack(self, *, requeue: bool = True) -> None:
        """Refuse it."""
        self.channel.basic_nack(self.method.delivery_tag, requeue=requeue)

    async def reject(self, *, requeue: bool = False) -> None:
        """Refuse it in the other way."""
        self.channel.basic_reject(self.method.delivery_tag, requeue=requeue)

    async def publish(self, routing_key: str, body: bytes) -> None:
        """Publish another message on the channel that it came on."""
        self.channel.basic_publish("", routing_key, body)

    async def forward(self, routing_key: str) -> None:
        """Publish it again with the very properties that it came with."""
        self.channel.basic_publish("", routing_key, self.body, self.own)

    async def pause(self, seconds: float) -> None:
        """Be at work for some time."""
        time.sleep(seconds)  # noqa: ASYNC251 - there is no loop behind this one

    def process(self, **flags: bool) -> AbstractAsyncContextManager[object]:
        """Fail: pika has no such thing."""
        raise NotImplementedError


class PikaBlocking:
    """One BlockingConnection."""

    name: ClassVar = "pika-blocking"
    features: ClassVar = Features(ambient=True, fetches=True)
    public: ClassVar[Sequence[tuple[type, str]]] = (
        (BlockingChannel, "basic_publish"),
        (BlockingChannel, "basic_consume"),
        (Channel, "basic_publish"),
        (Channel, "basic_ack"),
        (Channel, "basic_nack"),
        (Channel, "basic_reject"),
    )
    unroutable: ClassVar[type[Exception]] = UnroutableError
    locked: ClassVar[type[Exception]] = ChannelClosedByBroker
    interruption: ClassVar[type[BaseException]] = SystemExit

    def __init__(self, url: str) -> None:
        self.raised: list[BaseException] = []
        self.outcomes: list[Outcome] = []
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._pulled: list[tuple[str, Policy, Native]] = []

    @cached_property
    def _consuming(self) -> BlockingChannel:
        return self._connection.channel()

    @cached_property
    def _publishing(self) -> BlockingChannel:
        channel = self._connection.channel()
        channel.confirm_delivery()
        return channel

    def open(self) -> None:
        """Open both channels."""
        _ = self._consuming, self._publishing

    def close(self) -> None:
        """Close the connection."""
        if self._connection.is_open:
            self._connection.close()

    def cut(self) -> None:
        """Fail: pika's connections do not come back."""
        raise NotImplementedError

    def pump(self) -> None:
        """Process what has arrived; what leaves a callback leaves here."""
        try:
            self._connection.process_data_events(_MOMENT)
            for queue, policy, callback in self._pulled:
                method, properties, body = self._consuming.basic_get(queue)
                if method is not None and properties is not None and body is not None:
                    outcome = policy.run(
                        self._consuming, method, properties, body, cast("Any", callback), queue=queue
                    )
                    self.outcomes.append(outcome)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is what the program would see
            self.raised.append(error)

    def message(self, body: bytes, properties: Properties) -> tuple[bytes, BasicProperties]:
        """Return body and properties."""
        return body, pika_properties(properties)

    def headers(self, message: tuple[bytes, BasicProperties]) -> Mapping[str, object] | None:
        """Return the headers of what `message` made."""
        headers: Mapping[str, object] | None = message[1].headers
        return headers

    def send(self, message: tuple[bytes, BasicProperties], routing_key: str, exchange: str = "") -> None:
        """Publish what `message` made, with a confirm."""
        body, properties = message
        self._publishing.basic_publish(exchange, routing_key, body, properties, mandatory=True)

    def send_unasked(self, routing_key: str) -> None:
        """Publish on the consuming channel, without confirm and properties."""
        self._consuming.basic_publish("", routing_key, b"")

    def native(self, handler: Handler) -> Native:
        """Return *handler* as pika's kind of callback."""
        return native(handler)

    def plain(self, handler: Handler) -> Native:
        """Return *handler* as pika's kind of callback, which is a plain function."""
        return native(handler)

    def prefetch(self, count: int) -> None:
        """Set the prefetch of the consuming channel."""
        self._consuming.basic_qos(prefetch_count=count)

    def consume(self, queue: str, callback: Native, *, acknowledges: bool = True) -> None:
        """Consume *queue* with *callback*."""
        self._consuming.basic_consume(queue, callback, auto_ack=not acknowledges)

    def pull(self, queue: str, policy: Policy, handler: Handler) -> None:
        """Fetch one message at each `pump`."""
        self._pulled.append((queue, policy, self.native(handler)))

    def private_queue(self, name: str = "") -> str:
        """Declare an exclusive queue, named by the broker if not here."""
        declared: str = self._consuming.queue_declare(name, exclusive=True).method.queue
        return declared

    def stream(self, name: str) -> None:
        """Declare a stream."""
        self._consuming.queue_declare(name, durable=True, arguments={"x-queue-type": "stream"})

    def ack_elsewhere(self, received: Received, *, multiple: bool = False) -> None:
        """Acknowledge from another thread, in the one way that pika allows."""
        assert isinstance(received, PikaReceived)
        self._elsewhere(lambda: received.channel.basic_ack(received.method.delivery_tag, multiple=multiple))

    def reject_elsewhere(self, received: Received) -> None:
        """Refuse from another thread."""
        assert isinstance(received, PikaReceived)
        self._elsewhere(lambda: received.channel.basic_reject(received.method.delivery_tag))

    def _elsewhere(self, call: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._connection.add_callback_threadsafe, args=(call,))
        thread.start()
        thread.join()


def native(handler: Handler) -> Native:
    """Return *handler* as a callback of pika, on any channel."""

    def callback(
        channel: AnyChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> object:
        received: Received = PikaReceived(channel, method, properties, body)
        return at_once(cast("Coroutine[Any, Any, object]", handler(received)))

    return callback


def at_once(coroutine: "Coroutine[Any, Any, object]") -> object:
    """Run *coroutine*, which does not really wait, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    msg = "a handler waited where nothing can resume it"
    raise AssertionError(msg)


def neutral(properties: BasicProperties) -> Properties:
    """Return *properties* of pika for everybody."""
    return Properties(
        headers=properties.headers,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        expiration=_seconds(properties.expiration),
        message_id=properties.message_id,
        type=properties.type,
        user_id=properties.user_id,
        app_id=properties.app_id,
    )


def _seconds(expiration: str | None) -> float | None:
    return int(expiration) / 1000 if expiration is not None and expiration.isdecimal() else None


def pika_properties(properties: Properties) -> BasicProperties:
    """Return *properties* as those of pika."""
    return BasicProperties(
        headers=None if properties.headers is None else dict(properties.headers),
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        expiration=None if properties.expiration is None else str(round(properties.expiration * 1000)),
        message_id=properties.message_id,
        type=properties.type,
        user_id=properties.user_id,
        app_id=properties.app_id,
    )
