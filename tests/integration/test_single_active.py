"""Queues with a single active consumer: one whose breaker is open makes room for another."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage, AbstractQueue
from pika.adapters.blocking_connection import BlockingChannel

import otel_waybill as waybill
from conformance.broker import Broker
from integration.pika_recording import Recorded, Unique, opened
from otel_waybill.clients.aio_pika.standby import leave
from otel_waybill.clients.pika.standby import consumers

if TYPE_CHECKING:
    from aiormq.channel import Channel

Connect = Callable[[str], Awaitable[AbstractConnection]]


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("connect", [aio_pika.connect, aio_pika.connect_robust], ids=["plain", "robust"])
def test_aio_pika_consumer_leaves_and_comes_back(connect: Connect, amqp_url: str, unique: Unique) -> None:
    """While its breaker is open another one gets what it could not handle, and then it is there again."""
    name = unique("single")
    broker = Broker(amqp_url)
    broker.declare(name, **{"x-single-active-consumer": True})
    asyncio.run(_story(connect, amqp_url, name, broker))
    assert [0, 0] == broker.left(name, f"{name}.parked")
    broker.delete(name)
    broker.close()


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("workers", [0, 2])
def test_pika_consumer_leaves_and_comes_back(amqp_url: str, unique: Unique, workers: int) -> None:
    """The same, inline and with threads; to pika itself it consumes all the while."""
    name = unique("single")
    broker = Broker(amqp_url)
    broker.declare(name, **{"x-single-active-consumer": True})
    payments = waybill.CircuitBreaker(name, open_for=1.5)
    first: list[bytes] = []
    second: list[bytes] = []

    def flaky(_channel: object, _method: object, _properties: object, body: bytes) -> None:
        first.append(body)
        if body == b"1":
            payments.force_open()
            raise ConnectionError

    def steady(_channel: object, _method: object, _properties: object, body: bytes) -> None:
        second.append(body)

    paused = waybill.Policy(retry=waybill.Retry(), breaker=payments, single_active=True, workers=workers)
    with opened(amqp_url) as one, opened(amqp_url) as other:
        one.basic_consume(name, paused.wrap(flaky))
        tag = other.basic_consume(name, waybill.Policy().wrap(steady))

        broker.publish(name, b"1")
        _pump(one, other, until=lambda: first == [b"1"])
        broker.publish(name, b"2")
        _pump(one, other, until=lambda: len(second) == 2)
        assert {b"1", b"2"} == {*second}

        other.basic_cancel(tag)
        payments.reset()
        broker.publish(name, b"3")
        _pump(one, other, until=lambda: len(first) == 2)
        assert [b"1", b"3"] == first
        waybill.shutdown(one)
    assert [0, 0] == broker.left(name, f"{name}.parked")
    broker.delete(name)
    broker.close()


@pytest.mark.usefixtures("recorded")
def test_pika_consumer_that_ended_while_it_was_away_does_not_come_back(amqp_url: str, unique: Unique) -> None:
    """Not even as another one with the same tag, for which the broker would close the connection."""
    name = unique("single")
    broker = Broker(amqp_url)
    broker.declare(name, **{"x-single-active-consumer": True})
    payments = waybill.CircuitBreaker(name, open_for=1.5)
    payments.force_open()
    paused = waybill.Policy(retry=waybill.Retry(), breaker=payments, single_active=True)
    seen: list[bytes] = []
    with opened(amqp_url) as channel:
        channel.basic_consume(name, paused.wrap(lambda *_: None), consumer_tag="me")
        broker.publish(name, b"1")
        _pump(channel, until=lambda: consumers.of(channel._impl)["me"].away)
        channel.basic_cancel("me")
        channel.basic_consume(name, lambda *got: seen.append(got[-1]), consumer_tag="me", auto_ack=True)
        channel.connection.call_later(2.0, lambda: broker.publish(name, b"2"))
        _pump(channel, until=lambda: len(seen) == 2)
    assert [b"1", b"2"] == seen
    broker.delete(name)
    broker.close()


def test_consumers_that_ended_are_forgotten(recorded: Recorded, channel: BlockingChannel, queue: str) -> None:
    """A program may begin and cancel as often as it likes on one channel."""
    for _ in range(3):
        tag = channel.basic_consume(queue, lambda *_: None)
        channel.basic_cancel(tag)
    tag = channel.basic_consume(queue, lambda *_: None)
    assert [tag] == [*consumers.of(channel._impl)]
    assert () == recorded.spans


@pytest.mark.usefixtures("telemetry")
def test_aio_pika_consumer_that_the_broker_has_cancelled_has_left(amqp_url: str, unique: Unique) -> None:
    """What it holds still goes back, though nobody can leave a queue that is gone."""
    name = unique("single")
    broker = Broker(amqp_url)
    broker.declare(name)

    async def ignore(_: AbstractIncomingMessage) -> None:
        pass

    async def story() -> None:
        async with await aio_pika.connect(amqp_url) as connection:
            queue = await _queue(connection, name)
            tag = await queue.consume(ignore)
            channel = cast("Channel", await queue.channel.get_underlay_channel())
            broker.delete(name)
            while tag in channel.consumers:
                await channel.basic_qos(prefetch_count=1)
            await leave(channel, tag, 60.0)

    asyncio.run(story())
    broker.close()


def _pump(*channels: BlockingChannel, until: Callable[[], bool]) -> None:
    while not until():
        for channel in channels:
            channel.connection.process_data_events(0.02)


async def _story(connect: Connect, url: str, name: str, broker: Broker) -> None:
    payments = waybill.CircuitBreaker(name, open_for=1.5)
    first, second = asyncio.Queue[bytes](), asyncio.Queue[bytes]()

    async def flaky(message: AbstractIncomingMessage) -> None:
        first.put_nowait(message.body)
        if message.body == b"1":
            payments.force_open()
            raise ConnectionError

    async def steady(message: AbstractIncomingMessage) -> None:
        second.put_nowait(message.body)

    paused = waybill.Policy(retry=waybill.Retry(), breaker=payments, single_active=True)
    async with await connect(url) as one, await connect(url) as other:
        await (await _queue(one, name)).consume(paused.wrap(flaky))
        standing_by = await _queue(other, name)
        tag = await standing_by.consume(waybill.Policy().wrap(steady))

        broker.publish(name, b"1")
        assert b"1" == await first.get()
        broker.publish(name, b"2")
        # The second message, and the first one's retry, find the breaker open.
        assert {b"1", b"2"} == {await second.get(), await second.get()}

        await standing_by.cancel(tag)
        payments.reset()
        broker.publish(name, b"3")
        assert b"3" == await first.get()
        assert (0, 0) == (first.qsize(), second.qsize())


async def _queue(connection: AbstractConnection, name: str) -> AbstractQueue:
    return await (await connection.channel()).get_queue(name)
