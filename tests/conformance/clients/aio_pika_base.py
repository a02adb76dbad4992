"""What the clients of aio-pika have in common: their loop runs in a thread of its own."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import DeliveryError
from aio_pika.message import IncomingMessage
from aiormq.exceptions import ChannelLockedResource

from conformance.clients.pika_blocking import at_once
from conformance.protocol import PATIENCE, Features, Handler, Native, Properties, Received
from otel_waybill import Outcome, Policy

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")

_MOMENT = 0.01


class AioReceived:
    """One delivery of aio-pika."""

    def __init__(self, client: "AioPika", message: IncomingMessage) -> None:
        self._client = client
        self.message = message
        self.body = message.body
        self.exchange = message.exchange or ""
        self.routing_key = message.routing_key or ""
        self.redelivered = bool(message.redelivered)
        self.headers: Mapping[str, object] = message.headers or {}
        self.properties = Properties(
            headers=message.headers or None,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            priority=message.priority,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            expiration=cast("float | None", message.expiration),
            message_id=message.message_id,
            type=message.type,
            user_id=message.user_id,
            app_id=message.app_id,
        )

    async def ack(self, *, multiple: bool = False) -> None:
        """Acknowledge it."""
        await self.message.ack(multiple=multiple)

    async def nack(self, *, requeue: bool = True) -> None:
        """Refuse it."""
        await self.message.nack(requeue=requeue)

    async def reject(self, *, requeue: bool = False) -> None:
        """Refuse it in the other way."""
        await self.message.reject(requeue=requeue)

    async def publish(self, routing_key: str, body: bytes) -> None:
        """Publish another message."""
        channel = await self._client.consuming()
        await channel.default_exchange.publish(aio_pika.Message(body), routing_key)

    async def forward(self, routing_key: str) -> None:
        """Publish it again, the very object."""
        channel = await self._client.consuming()
        await channel.default_exchange.publish(self.message, routing_key)

    async def pause(self, seconds: float) -> None:
        """Be at work for some time."""
        await asyncio.sleep(seconds)

    def process(self, **flags: bool) -> AbstractAsyncContextManager[object]:
        """Return the block that acks at its end, and rejects when an exception leaves it."""
        return self.message.process(**flags)


class AioPika:
    """One connection of aio-pika, with its loop."""

    name: ClassVar[str]
    features: ClassVar = Features(stops=True, process=True, tells_returns=True)
    public: ClassVar[Sequence[tuple[type, str]]] = (
        (aio_pika.Exchange, "publish"),
        (aio_pika.Queue, "consume"),
        (IncomingMessage, "ack"),
        (IncomingMessage, "nack"),
        (IncomingMessage, "reject"),
    )
    unroutable: ClassVar[type[Exception]] = DeliveryError
    locked: ClassVar[type[Exception]] = ChannelLockedResource
    interruption: ClassVar[type[BaseException]] = asyncio.CancelledError

    def __init__(self, url: str) -> None:
        self.raised: list[BaseException] = []
        self.outcomes: list[Outcome] = []
        self._consuming: AbstractChannel | None = None
        self._publishing: AbstractChannel | None = None
        self._pulls: list[Future[None]] = []
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._note)
        self._thread = threading.Thread(target=self._loop.run_forever, name=self.name)
        self._thread.start()
        self._connection = self._call(self._connect(url))

    async def _connect(self, url: str) -> AbstractConnection:
        raise NotImplementedError

    def open(self) -> None:
        """Open both channels."""
        self._call(self.consuming())
        self._call(self.publishing())

    def close(self) -> None:
        """Close the connection and end the loop."""
        if self._loop.is_closed():
            return
        for pull in self._pulls:
            pull.cancel()
        self._call(self._closed())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _closed(self) -> None:
        if self._consuming is not None:
            # With the connection, aiormq 6 drops the acks that wait to be sent.
            await self._consuming.close()
        await self._connection.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    def cut(self) -> None:
        """Abort the connection's socket."""
        transport = self._connection.transport
        assert transport is not None
        # Nobody keeps the socket but the coroutine that reads from it.
        reading = cast("Any", transport.connection)._reader_task.task.get_coro()
        socket = reading.cr_frame.f_locals["frame_receiver"].reader._transport
        self._loop.call_soon_threadsafe(socket.abort)

    def pump(self) -> None:
        """Wait for a moment: the loop works by itself."""
        time.sleep(_MOMENT)

    def message(self, body: bytes, properties: Properties) -> aio_pika.Message:
        """Return a Message."""
        facts: dict[str, Any] = {name: getattr(properties, name) for name in Properties.__dataclass_fields__}
        headers = facts.pop("headers")
        return aio_pika.Message(body, headers=None if headers is None else dict(headers), **facts)

    def headers(self, message: aio_pika.Message) -> Mapping[str, object] | None:
        """Return the headers of what `message` made."""
        return cast("Mapping[str, object] | None", message.headers)

    def send(self, message: aio_pika.Message, routing_key: str, exchange: str = "") -> None:
        """Publish what `message` made, with a confirm."""

        async def send() -> None:
            channel = await self.publishing()
            target = (
                await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
            )
            await target.publish(message, routing_key)

        self._call(send())

    def send_unasked(self, routing_key: str) -> None:
        """Publish on a channel as `connection.channel()` makes them."""

        async def send() -> None:
            async with self._connection.channel() as channel:
                await channel.default_exchange.publish(aio_pika.Message(b""), routing_key)

        self._call(send())

    def native(self, handler: Handler) -> Native:
        """Return *handler* as a coroutine function."""

        async def callback(message: IncomingMessage) -> object:
            return await handler(AioReceived(self, message))

        return callback

    def plain(self, handler: Handler) -> Native:
        """Return *handler* as a plain function, which aio-pika still takes."""

        def callback(message: IncomingMessage) -> object:
            return at_once(cast("Coroutine[Any, Any, object]", handler(AioReceived(self, message))))

        return callback

    def prefetch(self, count: int) -> None:
        """Set the prefetch of the consuming channel."""

        async def prefetch() -> None:
            await (await self.consuming()).set_qos(prefetch_count=count)

        self._call(prefetch())

    def consume(self, queue: str, callback: Native, *, acknowledges: bool = True) -> None:
        """Consume *queue* with *callback*."""

        async def consume() -> None:
            source = await (await self.consuming()).get_queue(queue)
            await source.consume(callback, no_ack=not acknowledges)

        self._call(consume())

    def pull(self, queue: str, policy: Policy, handler: Handler) -> None:
        """Iterate over *queue* in a task of its own."""
        callback = self.native(handler)

        async def pull() -> None:
            source = await (await self.consuming()).get_queue(queue)
            async with source.iterator() as messages:
                async for message in messages:
                    self.outcomes.append(await policy.run(message, callback))

        self._pulls.append(asyncio.run_coroutine_threadsafe(pull(), self._loop))

    def private_queue(self, name: str = "") -> str:
        """Declare an exclusive queue, named by aio-pika if not here."""

        async def declare() -> str:
            return (await (await self.consuming()).declare_queue(name or None, exclusive=True)).name

        return self._call(declare())

    def stream(self, name: str) -> None:
        """Declare a stream."""

        async def declare() -> None:
            await (await self.consuming()).declare_queue(
                name, durable=True, arguments={"x-queue-type": "stream"}
            )

        self._call(declare())

    def ack_elsewhere(self, received: Received, *, multiple: bool = False) -> None:
        """Acknowledge from another task."""
        self._call(received.ack(multiple=multiple))

    def reject_elsewhere(self, received: Received) -> None:
        """Refuse from another task."""
        self._call(received.reject())

    async def consuming(self) -> AbstractChannel:
        """Return the channel that consumes."""
        if self._consuming is None:
            self._consuming = await self._connection.channel()
        return self._consuming

    async def publishing(self) -> AbstractChannel:
        """Return the channel that publishes and raises what comes back."""
        if self._publishing is None:
            self._publishing = await self._connection.channel(on_return_raises=True)
        return self._publishing

    def _call(self, coroutine: "Coroutine[Any, Any, T]") -> T:
        """Run *coroutine* in the loop, in a copy of the caller's context, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        with contextlib.suppress(KeyError):
            self.raised.append(context["exception"])
