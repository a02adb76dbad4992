"""pika's AsyncioConnection: of the adapters with a loop the one whose callbacks run in copied contexts."""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.blocking_connection import ReturnedMessage
from pika.channel import Channel
from pika.exceptions import (
    ChannelClosedByBroker,
    ChannelClosedByClient,
    ConnectionClosedByClient,
    NackError,
    UnroutableError,
)
from pika.spec import Basic, BasicProperties

import otel_waybill as waybill
from conformance.clients.pika_blocking import PikaReceived, native, pika_properties
from conformance.protocol import PATIENCE, Features, Handler, Native, Properties, Received
from otel_waybill import Outcome, Policy

if TYPE_CHECKING:
    from pika.frame import Method

    Frame: TypeAlias = Method[Basic.Ack | Basic.Nack]

_MOMENT = 0.01


class PikaAsyncio:
    """One AsyncioConnection, whose loop the thread of the test runs."""

    name: ClassVar = "pika-asyncio"
    features: ClassVar = Features(fetches=True, waits=False, surfaces=False)
    public: ClassVar[Sequence[tuple[type, str]]] = (
        (Channel, "basic_publish"),
        (Channel, "basic_consume"),
        (Channel, "basic_get"),
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
        self._pulled: list[tuple[str, Native]] = []
        self._consumes: Channel | None = None
        self._publishes: Channel | None = None
        self._confirms: list[Frame] = []
        self._returns: list[ReturnedMessage] = []
        self._loop = asyncio.new_event_loop()
        self._url = url

    def open(self) -> None:
        """Open both channels."""
        _ = self._consuming, self._publishing

    def close(self) -> None:
        """Close the connection and the loop."""
        if self._loop.is_closed():
            return
        if self._connection.is_open:
            # As a program does that ends in good order: what is on its way may arrive.
            ended: list[None] = []
            waybill.shutdown(self._connection, grace=0, done=lambda: ended.append(None))
            self._until(lambda: ended or not self._connection.is_open)
        if self._connection.is_open:
            self._connection.close()
            self._until(lambda: self._connection.is_closed)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def cut(self) -> None:
        """Fail: pika's connections do not come back."""
        raise NotImplementedError

    def pump(self) -> None:
        """Fetch what there is to fetch, and run the loop for a moment."""
        for queue, callback in self._pulled:
            if self._consuming._on_getok_callback is None:  # one at a time
                self._consuming.basic_get(queue, callback)
        self._run()

    def message(self, body: bytes, properties: Properties) -> tuple[bytes, BasicProperties]:
        """Return body and properties."""
        return body, pika_properties(properties)

    def headers(self, message: tuple[bytes, BasicProperties]) -> Mapping[str, object] | None:
        """Return the headers of what `message` made."""
        headers: Mapping[str, object] | None = message[1].headers
        return headers

    def send(self, message: tuple[bytes, BasicProperties], routing_key: str, exchange: str = "") -> None:
        """Publish what `message` made, and wait for its confirm."""
        body, properties = message
        channel = self._publishing
        self._confirms.clear()
        channel.basic_publish(exchange, routing_key, body, properties, mandatory=True)
        self._until(lambda: self._confirms)
        returned, self._returns = self._returns, []
        if returned:
            raise UnroutableError(returned)
        if isinstance(self._confirms[0].method, Basic.Nack):
            raise NackError([])

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
        """Fetch one message at each `pump`; here the policy stands on the callback."""
        self._pulled.append((queue, policy.wrap(native(handler))))

    def private_queue(self, name: str = "") -> str:
        """Declare an exclusive queue, named by the broker if not here."""
        declare = partial(self._consuming.queue_declare, name, exclusive=True)
        declared: str = self._answer(lambda done: declare(callback=done)).method.queue
        return declared

    def stream(self, name: str) -> None:
        """Declare a stream."""
        kind = {"x-queue-type": "stream"}
        declare = partial(self._consuming.queue_declare, name, durable=True, arguments=kind)
        self._answer(lambda done: declare(callback=done))

    def ack_elsewhere(self, received: Received, *, multiple: bool = False) -> None:
        """Acknowledge from another thread, in the one way that pika allows."""
        assert isinstance(received, PikaReceived)
        self._elsewhere(partial(received.channel.basic_ack, received.method.delivery_tag, multiple=multiple))

    def reject_elsewhere(self, received: Received) -> None:
        """Refuse from another thread."""
        assert isinstance(received, PikaReceived)
        self._elsewhere(partial(received.channel.basic_reject, received.method.delivery_tag))

    @cached_property
    def _connection(self) -> AsyncioConnection:
        # asyncio calls back in the context in which the connection is made, so it is made when it is used.
        connection: AsyncioConnection = self._answer(
            lambda done: AsyncioConnection(
                pika.URLParameters(self._url),
                on_open_callback=done,
                on_close_callback=self._closed,
                custom_ioloop=self._loop,
            )
        )
        return connection

    @property
    def _consuming(self) -> Channel:
        if self._consumes is None or not self._consumes.is_open:
            self._consumes = self._channel()
        return self._consumes

    @property
    def _publishing(self) -> Channel:
        if self._publishes is None:
            self._publishes = self._channel()
            self._publishes.confirm_delivery(self._confirms.append)
            self._publishes.add_on_return_callback(
                lambda _, *returned: self._returns.append(ReturnedMessage(*returned))
            )
        return self._publishes

    def _channel(self) -> Channel:
        channel: Channel = self._answer(lambda done: self._connection.channel(on_open_callback=done))
        channel.add_on_close_callback(self._closed)
        return channel

    def _closed(self, _: object, reason: BaseException) -> None:
        if not isinstance(reason, ChannelClosedByClient | ConnectionClosedByClient):
            self.raised.append(reason)

    def _elsewhere(self, call: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._loop.call_soon_threadsafe, args=(call,))
        thread.start()
        thread.join()

    def _answer(self, ask: Callable[[Any], object]) -> Any:  # noqa: ANN401 - whatever pika calls back with
        """Ask for something, and run the loop until it is there."""
        answers: list[object] = []
        ask(answers.append)
        self._until(lambda: answers)
        return answers[0]

    def _until(self, condition: Callable[[], object]) -> None:
        limit = self._loop.time() + PATIENCE
        while not condition():
            assert self._loop.time() < limit, "the broker did not answer"
            self._run()

    def _run(self) -> None:
        stop = self._loop.call_later(_MOMENT, self._loop.stop)
        try:
            self._loop.run_forever()
        except SystemExit as error:
            self.raised.append(error)
        finally:
            stop.cancel()
