"""Every way in which aio-pika hands out a message that the program fetches itself."""

import asyncio
from typing import TYPE_CHECKING, cast

import aio_pika
import pytest
from aio_pika.exceptions import QueueEmpty
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind, StatusCode
from pamqp.commands import Basic

import otel_waybill as waybill
from conformance.protocol import PATIENCE
from conformance.telemetry import facts, here, identity, links, parent
from integration.aio_pika_recording import Doors, Tell
from integration.pika_recording import Unique
from otel_waybill.clients.aio_pika.read import channel_of
from otel_waybill.clients.aio_pika.settle import fetched, ledgers

if TYPE_CHECKING:
    from aio_pika.abc import AbstractMessage, HeadersType
    from aio_pika.message import IncomingMessage


class Plain:
    """A message of a program's own making: what aio-pika asks one for when it is published, without slots."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.headers: HeadersType = {}

    @property
    def properties(self) -> Basic.Properties:
        """What goes to the broker."""
        return Basic.Properties(headers=self.headers)


def test_get_is_a_receive_span_linked_to_the_publish(tell: Tell) -> None:
    """A fetched message shows when it was handed over, and where it came from."""

    async def story(doors: Doors) -> None:
        await doors.fill("1")
        message = await doors.queue.get()
        await message.ack()

        (receive,), (publish,), (ack,) = doors.spans("receive"), doors.spans("publish"), doors.spans("ack")
        assert SpanKind.CLIENT is receive.kind
        assert [identity(publish).span_id] == links(receive)
        assert parent(receive) is None
        assert doors.queue.name in ack.name
        assert [] == doors.spans("process")

    tell(story)


def test_message_of_a_class_of_its_own_carries_its_trace(tell: Tell) -> None:
    """Whatever a program publishes, it is a copy that is changed."""

    async def story(doors: Doors) -> None:
        message = Plain(b"own")
        await doors.send(cast("AbstractMessage", message))
        received = await doors.queue.get()

        (publish,) = doors.spans("publish")
        assert trace.format_span_id(identity(publish).span_id) in str(received.headers["traceparent"])
        assert {} == message.headers
        await received.ack()

    tell(story)


def test_empty_queue_leaves_no_trace(tell: Tell) -> None:
    """Asking in vain is no message: no span, and aio-pika's own answer."""

    async def story(doors: Doors) -> None:
        assert await doors.queue.get(fail=False) is None
        with pytest.raises(QueueEmpty):
            await doors.queue.get()
        assert [] == doors.spans("receive")

    tell(story)


def test_process_block_is_the_processing_of_a_fetched_message(tell: Tell) -> None:
    """`async with message.process()` is where the work is: child of the publish, with its waybill."""

    async def story(doors: Doors) -> None:
        await doors.fill("1")
        message = await doors.queue.get()
        async with message.process():
            assert "1" == waybill.current().request_id
            inside = here().span_id

        (process,), (publish,), (ack,) = doors.spans("process"), doors.spans("publish"), doors.spans("ack")
        assert inside == identity(process).span_id
        assert identity(publish).span_id == parent(process)
        assert [identity(publish).span_id] == links(process)
        assert identity(process).span_id == parent(ack)

    tell(story)


def test_error_in_a_process_block_is_the_error_of_its_span(tell: Tell) -> None:
    """The exception leaves as it is, the message is rejected, and the span has failed."""
    error = ValueError("no")

    async def story(doors: Doors) -> None:
        await doors.fill("1")
        message = await doors.queue.get()
        with pytest.raises(ValueError, match="no") as caught:
            async with message.process():
                raise error

        assert error is caught.value
        (process,), (reject,) = doors.spans("process"), doors.spans("reject")
        assert StatusCode.ERROR is process.status.status_code
        assert "ValueError" == (process.attributes or {})["error.type"]
        assert identity(process).span_id == parent(reject)

    tell(story)


def test_callback_that_processes_has_one_process_span(tell: Tell) -> None:
    """`message.process()` inside a callback is part of the callback's span, not another."""

    async def story(doors: Doors) -> None:
        done = asyncio.Event()

        async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            async with message.process():
                done.set()

        await doors.fill("1")
        tag = await doors.queue.consume(handle)
        await done.wait()
        await doors.queue.cancel(tag)
        await asyncio.sleep(0)
        assert 1 == len(doors.spans("process"))
        assert [] == doors.spans("receive")

    tell(story)


def test_prefetched_messages_have_no_spans(tell: Tell) -> None:
    """Whoever takes one of three sees one receive span, and the waybill of that message in the body."""

    async def story(doors: Doors) -> None:
        await doors.fill("1", "2", "3")
        async with doors.queue.iterator() as messages:
            async for message in messages:
                assert "1" == waybill.current().request_id
                assert here().is_valid
                await message.ack()
                break
        assert 1 == len(doors.spans("receive"))

    tell(story)


def test_each_step_of_a_loop_has_the_context_of_its_own_message(tell: Tell) -> None:
    """What is done in the body is done on behalf of the message in hand."""

    async def story(doors: Doors) -> None:
        await doors.fill("1", "2", "3")
        seen = []
        async with doors.queue.iterator() as messages:
            async for message in messages:
                seen.append((message.body.decode(), waybill.current().request_id))
                async with message.process():
                    pass
                if message.body == b"3":
                    break
        assert [("1", "1"), ("2", "2"), ("3", "3")] == seen
        assert 3 == len(doors.spans("receive"))
        assert 3 == len(doors.spans("process"))

    tell(story)


def test_bare_loop_leaks_no_context(tell: Tell) -> None:
    """Nothing tells that a bare `async for` was left, so nothing of the message is current in its body."""

    async def story(doors: Doors) -> None:
        await doors.fill("1", "2")
        async for message in doors.queue.iterator():
            assert not here().is_valid
            assert waybill.current().request_id is None
            await message.ack()
            if message.body == b"2":
                break
        assert 2 == len(doors.spans("receive"))

    tell(story)


def test_policy_knows_the_queue_of_a_fetched_message(tell: Tell) -> None:
    """`policy.run` after `get` or in a loop needs no queue, and its attempt is the processing."""

    async def story(doors: Doors) -> None:
        policy = waybill.Policy()
        await doors.fill("1", "2")
        ran = []

        async def handle(_: aio_pika.abc.AbstractIncomingMessage) -> None:
            ran.append(waybill.current().request_id)

        outcomes = [await policy.run(await doors.queue.get(), handle)]
        async for message in doors.queue.iterator():
            outcomes.append(await policy.run(message, handle))
            break
        assert [waybill.Result.HANDLED] * 2 == [outcome.result for outcome in outcomes]
        assert ["1", "2"] == ran
        assert 2 == len(doors.spans("process"))

    tell(story)


def test_ack_of_many_says_how_many(tell: Tell) -> None:
    """`multiple` covers what was fetched with acknowledgements and not settled yet."""

    async def story(doors: Doors) -> None:
        await doors.fill("1", "2", "3", "4", "5")
        await doors.queue.get(no_ack=True)
        messages = [await doors.queue.get() for _ in range(4)]
        await messages[0].ack()
        await messages[2].ack(multiple=True)
        await messages[3].nack(multiple=True, requeue=False)

        settled = [*doors.spans("ack"), *doors.spans("nack")]
        assert [None, 2, 1] == [facts(span).get("messaging.batch.message_count") for span in settled]

    tell(story)


def test_what_is_settled_is_forgotten(tell: Tell) -> None:
    """A program that fetches for weeks costs no memory, whether or not it has to acknowledge."""

    async def story(doors: Doors) -> None:
        await doors.fill(*"123456")
        await (await doors.queue.get()).ack()
        await (await doors.queue.get()).reject()
        await doors.queue.get()
        await (await doors.queue.get()).ack(multiple=True)
        await doors.queue.get(no_ack=True)
        last = cast("IncomingMessage", await doors.queue.get())
        async with last.process():
            pass

        channel = channel_of(last)
        assert [1, 0] == [len(fetched._of.of(channel)), len(ledgers.of(channel)._about)]

    tell(story)


def test_what_a_loop_gives_back_was_never_handed_over(tell: Tell) -> None:
    """Messages that its iterator had fetched ahead go back to the queue and leave no span."""

    async def story(doors: Doors) -> None:
        await doors.fill("1", "2", "3")
        async with doors.queue.iterator() as messages:
            async for message in messages:
                await message.ack()
                break

        settled = [span for span in doors.telemetry.spans() if "settle" in facts(span).values()]
        assert [f"ack {doors.queue.name}"] == [span.name for span in settled]
        assert [b"2", b"3"] == [(await doors.queue.get(no_ack=True)).body for _ in range(2)]

    tell(story)


@pytest.mark.parametrize("exclusive", [True, False], ids=["exclusive", "auto-delete"])
def test_queue_that_goes_with_its_consumer_names_no_span(
    tell: Tell, unique: Unique, *, exclusive: bool
) -> None:
    """Receiving, processing, under a policy or not, and settling: such names have no bound."""

    async def story(doors: Doors) -> None:
        queue = await doors.channel.declare_queue(
            unique("inbox"), exclusive=exclusive, auto_delete=not exclusive
        )
        policy = waybill.Policy(parking=doors.queue.name)
        handled = asyncio.Semaphore(0)

        async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            await message.ack()
            handled.release()

        for _ in range(4):
            await doors.exchange.publish(aio_pika.Message(b""), queue.name)
        async with (await queue.get()).process():
            pass
        await policy.run(await queue.get(), handle)
        tags = [await queue.consume(callback) for callback in (handle, policy.wrap(handle))]
        for _ in range(3):
            await asyncio.wait_for(handled.acquire(), PATIENCE)
        for tag in tags:
            await queue.cancel(tag)

        spans = [span for span in doors.telemetry.spans() if not span.name.startswith("publish")]
        assert {"receive", "process", "ack"} == {span.name for span in spans}

    tell(story)


def test_policy_does_not_run_what_cannot_be_retried(tell: Tell) -> None:
    """A message without an acknowledgement to come is refused with the reason, before its handler."""

    async def story(doors: Doors) -> None:
        await doors.fill("1", "2")
        settled, free = await doors.queue.get(), await doors.queue.get(no_ack=True)
        await settled.ack()
        ran: list[aio_pika.abc.AbstractIncomingMessage] = []
        for message in (settled, free):
            with pytest.raises(waybill.InvalidPolicy, match="no_ack"):
                await waybill.Policy().run(message, ran.append)
        assert [] == ran

    tell(story)


def test_suppressed_instrumentation_is_as_if_there_were_none(tell: Tell) -> None:
    """No span at any door, and the messages arrive all the same."""

    async def story(doors: Doors) -> None:
        with suppress_instrumentation():
            await doors.fill("1", "2")
            async with (await doors.queue.get()).process():
                pass
            async with doors.queue.iterator() as messages:
                async for message in messages:
                    await message.ack()
                    break
        assert [] == [span for name in ("publish", "receive", "process", "ack") for span in doors.spans(name)]

    tell(story)
