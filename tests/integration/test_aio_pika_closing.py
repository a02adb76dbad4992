"""Ending aio-pika's consumers in good order: nothing is lost, and nothing is done twice for no reason."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

import otel_waybill as waybill
from conformance.broker import Broker
from integration.pika_recording import Unique
from otel_waybill.clients.aio_pika.copies import copies
from otel_waybill.clients.aio_pika.settle import ledgers
from otel_waybill.core.delivery import Result
from otel_waybill.core.events import Ended
from otel_waybill.testing import RecordingSink

Connect = Callable[[str], Awaitable[AbstractConnection]]
both = pytest.mark.parametrize(
    "connect", [aio_pika.connect, aio_pika.connect_robust], ids=["plain", "robust"]
)


@pytest.fixture
def broker(amqp_url: str) -> Iterator[Broker]:
    """A connection of nobody."""
    broker = Broker(amqp_url)
    yield broker
    broker.close()


@pytest.fixture
def name(broker: Broker, unique: Unique) -> Iterator[str]:
    """A quorum queue, which counts what comes back."""
    name = unique("closing")
    broker.declare(name)
    yield name
    broker.delete(name)


def told(story: Awaitable[None]) -> list[Result]:
    """Run *story*; return what became of each delivery."""

    async def run() -> None:
        await story

    with RecordingSink() as sink:
        asyncio.run(run())
    return sorted(event.outcome.result for event in sink.of(Ended))


@both
@pytest.mark.usefixtures("telemetry")
def test_running_handler_ends_and_what_waits_is_given_back(
    connect: Connect, amqp_url: str, broker: Broker, name: str
) -> None:
    """The handler that runs has its grace; those that wait for a place leave at once and are not counted."""
    for body in (b"1", b"2", b"3"):
        broker.publish(name, body)
    seen: list[bytes] = []

    async def story() -> None:
        started, may_end = asyncio.Event(), asyncio.Event()

        async def handle(message: AbstractIncomingMessage) -> None:
            seen.append(message.body)
            started.set()
            await may_end.wait()

        async with await connect(amqp_url) as connection:
            channel = await connection.channel()
            queue = await channel.get_queue(name)
            await queue.consume(waybill.Policy(concurrency=1).wrap(handle))
            await started.wait()
            ending = asyncio.ensure_future(waybill.shutdown(connection, grace=30.0))
            await asyncio.to_thread(_until, lambda: broker.left(name) == [2])
            may_end.set()
            await ending
            broker.publish(name, b"4")
            assert [3] == broker.left(name), "nobody consumes any more"

    assert [Result.GIVEN_BACK, Result.GIVEN_BACK, Result.HANDLED] == told(story())
    assert [b"1"] == seen
    assert [3] == broker.left(name)


@both
@pytest.mark.usefixtures("telemetry")
def test_handler_that_does_not_end_is_cancelled(
    connect: Connect, amqp_url: str, broker: Broker, name: str
) -> None:
    """After the grace its message goes back, and the program can close."""
    broker.publish(name, b"1")
    ended: list[str] = []

    async def story() -> None:
        started = asyncio.Event()

        async def handle(_: AbstractIncomingMessage) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        async with await connect(amqp_url) as connection:
            channel = await connection.channel()
            await (await channel.get_queue(name)).consume(waybill.Policy().wrap(handle))
            await started.wait()
            await waybill.shutdown(channel, grace=0.0)

    assert [Result.GIVEN_BACK] == told(story())
    assert ["cancelled"] == ended
    assert [1] == broker.left(name)


@both
@pytest.mark.usefixtures("telemetry")
def test_what_a_program_fetched_is_its_own(
    connect: Connect, amqp_url: str, broker: Broker, name: str
) -> None:
    """Work in the program's own loop is waited for, not cancelled, and what was left to it stays open."""
    broker.publish(name, b"left")
    broker.publish(name, b"fetched")

    async def story() -> None:
        async def leave(_: AbstractIncomingMessage) -> None:
            await asyncio.sleep(0)

        async with await connect(amqp_url) as connection:
            channel = await connection.channel()
            await channel.set_qos(1)
            queue = await channel.get_queue(name)
            kept = asyncio.Queue[AbstractIncomingMessage]()

            await queue.consume(waybill.Policy(settle="handler").wrap(kept.put))
            message = await kept.get()
            fetched = await (await (await connection.channel()).get_queue(name)).get()
            running = asyncio.ensure_future(waybill.Policy().run(fetched, leave))
            await waybill.shutdown(connection, grace=0.0)
            assert Result.HANDLED is (await running).result
            await message.ack()

    assert [Result.HANDLED, Result.HANDLED, Result.OPEN] == told(story())
    assert [0] == broker.left(name)


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.02)


@both
@pytest.mark.usefixtures("telemetry")
def test_program_that_cancels_all_its_tasks_gives_a_copy_that_is_on_its_way_back(
    connect: Connect, amqp_url: str, broker: Broker, name: str
) -> None:
    """Nobody knows what became of the copy, so its message is there once more."""
    broker.publish(name, b"1")

    async def story() -> None:
        failed = asyncio.Event()

        async def handle(_: AbstractIncomingMessage) -> None:
            failed.set()
            raise LookupError

        async with await connect(amqp_url) as connection:
            before = asyncio.all_tasks()
            channel = await connection.channel()
            queue = await channel.get_queue(name)
            tag = await queue.consume(waybill.Policy().wrap(handle))
            underlay = await channel.get_underlay_channel()
            async with copies(underlay.connection)._opening:  # so that no copy gets out
                await failed.wait()
                await queue.cancel(tag)  # else what is given back comes again
                ours = [task for task in asyncio.all_tasks() - before if "otel_waybill" in str(task)]
                for task in ours:
                    task.cancel()
            await asyncio.wait(ours)
            assert {} == ledgers.of(underlay).entries

    assert [Result.GIVEN_BACK] == told(story())
    assert [1] == broker.left(name)
