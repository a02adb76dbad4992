"""What aio-pika brings on top of queues: remote calls, task queues, consumers that recover."""

import asyncio
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, cast

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from aio_pika.patterns import RPC, Master, RejectMessage
from opentelemetry import baggage
from opentelemetry import context as otel
from opentelemetry.trace import StatusCode

import otel_waybill as waybill
from conformance.protocol import PATIENCE
from conformance.telemetry import Telemetry, facts, identity, parent
from integration.aio_pika_recording import Doors, Tell, told
from integration.pika_recording import Unique
from otel_waybill import Backoff, Policy, Retry

if TYPE_CHECKING:
    from aiormq.channel import Channel

recovering = pytest.mark.skipif(
    tuple(map(int, version("aio-pika").split(".")[:2])) < (10, 1),
    reason="before aio-pika 10.1 a consumer that the broker has cancelled is gone",
)


@pytest.fixture
def robust(telemetry: Telemetry, amqp_url: str, unique: Unique) -> Tell:
    """Runs a story on a robust connection that is quick to recover."""
    connect = partial(aio_pika.connect_robust, amqp_url, reconnect_interval=0.1)
    return lambda story: asyncio.run(told(story, telemetry, connect(), unique("robust")))


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - others make it true, and tell nobody
            await asyncio.sleep(0.01)


async def _processed(doors: Doors, count: int) -> None:
    """Wait until so many process spans have ended."""
    await _until(lambda: len(doors.telemetry.processes()) == count)


async def _cancelled(queue: AbstractQueue) -> None:
    """Have the broker cancel the consumers of *queue*, which it deletes, and wait until they are back."""
    channel = cast("Channel", await queue.channel.get_underlay_channel())
    ((tag, before),) = channel.consumers.items()
    other = await channel.connection.channel()
    await other.queue_delete(queue.name)
    await other.close()
    await _until(lambda: channel.consumers.get(tag, before) is not before)


def test_a_remote_call_is_one_trace_there_and_back(tell: Tell, unique: Unique) -> None:
    """The call, its handler, the reply and its arrival: what is around the call is around all of them."""
    method = unique("double")

    async def story(doors: Doors) -> None:
        seen = []

        async def double(*, number: int) -> int:
            seen.append((waybill.current().request_id, baggage.get_baggage("tenant")))
            return 2 * number

        rpc = await RPC.create(doors.channel)
        await rpc.register(method, double)
        token = otel.attach(baggage.set_baggage("tenant", "acme"))
        with waybill.request(id="r-1"), doors.telemetry.tracer().start_as_current_span("program"):
            assert 42 == await rpc.call(method, kwargs={"number": 21})
        otel.detach(token)
        await _processed(doors, 2)

        assert [("r-1", "acme")] == seen
        call, reply = doors.telemetry.publishes()
        handled, answered = doors.telemetry.processes()
        assert [f"publish {method}", "publish"] == [call.name, reply.name], "reply queues have no name"
        assert [f"process {method}", "process"] == [handled.name, answered.name]
        assert identity(doors.telemetry.only("program")).span_id == parent(call)
        assert identity(call).span_id == parent(handled)
        assert identity(handled).span_id == parent(reply)
        assert identity(reply).span_id == parent(answered)
        await rpc.close()
        await doors.channel.queue_delete(method)

    tell(story)


def test_a_remote_call_that_nobody_answers_is_an_error_of_its_publish(tell: Tell, unique: Unique) -> None:
    """The caller gets aio-pika's own exception at once, and the trace shows where it came from."""

    async def story(doors: Doors) -> None:
        rpc = await RPC.create(doors.channel)
        with pytest.raises(aio_pika.exceptions.MessageProcessError):
            await asyncio.wait_for(rpc.call(unique("nobody")), PATIENCE)

        (call,) = doors.telemetry.publishes()
        assert StatusCode.ERROR is call.status.status_code
        await rpc.close()

    tell(story)


def test_tasks_of_a_worker_belong_to_who_created_them(tell: Tell, unique: Unique) -> None:
    """Each task is handled in the trace and for the request of its creator; refusals are seen as such."""
    name = unique("tasks")

    async def story(doors: Doors) -> None:
        seen = []

        async def work(*, number: int) -> None:
            seen.append((number, waybill.current().request_id))
            if number == 2:
                raise RejectMessage(requeue=False)

        master = Master(doors.channel)
        worker = await master.create_worker(name, work, auto_delete=True)
        for number in (1, 2):
            with waybill.request(id=f"r-{number}"):
                await master.create_task(name, kwargs={"number": number})
        await _processed(doors, 2)

        assert [(1, "r-1"), (2, "r-2")] == sorted(seen)
        created = {identity(span).span_id for span in doors.telemetry.publishes()}
        assert created == {parent(span) for span in doors.telemetry.processes()}
        assert 1 == len(doors.telemetry.spans("ack")) == len(doors.telemetry.spans("reject"))
        await worker.close()

    tell(story)


@recovering
def test_a_consumer_that_its_broker_has_cancelled_is_traced_once(robust: Tell) -> None:
    """A queue that was deleted comes back with its consumer, and each message still has one process span."""

    async def story(doors: Doors) -> None:
        async def handle(message: AbstractIncomingMessage) -> None:
            await message.ack()

        await doors.queue.consume(handle)
        await doors.fill("1")
        await _processed(doors, 1)
        await _cancelled(doors.queue)
        await doors.fill("2")
        await _processed(doors, 2)

        assert 2 == len(doors.spans("process")) == len(doors.spans("ack")) == len(doors.telemetry.traces())

    robust(story)


@recovering
def test_a_policy_stays_on_a_consumer_that_its_broker_has_cancelled(robust: Tell) -> None:
    """Retries find their way to the new queue as they did to the old one."""
    attempts = []

    async def story(doors: Doors) -> None:
        async def handle(_: AbstractIncomingMessage) -> None:
            attempts.append(waybill.current().attempt)
            if attempts[-1] == 1:
                msg = "not yet"
                raise RuntimeError(msg)

        retry = Retry(backoff=Backoff(first=0.25, ceiling=0.25, jitter="none"))
        await doors.queue.consume(Policy(retry=retry).wrap(handle))
        await doors.fill("1")
        await _processed(doors, 2)
        await _cancelled(doors.queue)
        await doors.fill("2")
        await _processed(doors, 4)
        await doors.channel.queue_delete(f"{doors.queue.name}.parked")

        outcomes = [facts(span)["waybill.outcome"] for span in doors.spans("process")]
        assert ["retried", "handled"] * 2 == outcomes

    robust(story)
    assert [1, 2] * 2 == attempts
