"""What OpenTelemetry's own aio-pika instrumentation gets wrong, C1 to C13: it passes none of these tests."""

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import Context as Variables
from contextvars import copy_context
from typing import Any, TypeAlias, TypeVar, cast

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from aiormq.abc import DeliveredMessage
from opentelemetry import baggage
from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import is_instrumentation_enabled, suppress_instrumentation
from opentelemetry.propagators.textmap import Getter, default_getter
from opentelemetry.trace import Span, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pamqp.common import FieldValue
from yarl import URL

import otel_waybill as waybill
from conformance.protocol import PATIENCE
from conformance.telemetry import Telemetry, facts, here, identity, links, parent
from integration.aio_pika_recording import Doors, Tell
from integration.pika_recording import Unique
from otel_waybill.telemetry.hooks import Hooks, Message

T = TypeVar("T")
Task = asyncio.Task[Any]
Running: TypeAlias = Coroutine[Any, Any, T] | Generator[Any, None, T]


async def _consumed(doors: Doors, count: int = 1) -> list[AbstractIncomingMessage]:
    """Consume by callback, acknowledge, and return what came."""
    came: list[AbstractIncomingMessage] = []
    enough = asyncio.Event()

    async def handle(message: AbstractIncomingMessage) -> None:
        came.append(message)
        await message.ack()
        if len(came) == count:
            enough.set()

    tag = await doors.queue.consume(handle)
    await asyncio.wait_for(enough.wait(), PATIENCE)
    await doors.queue.cancel(tag)
    return came


def _this_task() -> Task:
    task = asyncio.current_task()
    assert task is not None
    return task


async def _send_bare(doors: Doors, *messages: aio_pika.Message) -> None:
    """Publish as a program does that is not instrumented."""
    with suppress_instrumentation():
        for message in messages:
            await doors.send(message)


def test_c1_a_loop_has_the_context_of_its_message_and_spans_for_what_it_was_handed(tell: Tell) -> None:
    """Contrib makes a span for each prefetched message, over before the body, which has no context."""

    async def story(doors: Doors) -> None:
        await doors.fill("1", "2", "3")
        inside = []
        async with doors.queue.iterator() as messages:
            async for message in messages:
                inside.append(here().span_id)
                await message.ack()
                break

        first, *_ = doors.spans("publish")
        assert [identity(first).span_id] == inside
        (receive,) = doors.spans("receive")
        assert [identity(first).span_id] == links(receive)
        assert [] == doors.telemetry.processes()

    tell(story)


def test_c2_fetching_settling_and_process_blocks_are_traced(tell: Tell) -> None:
    """Contrib knows no get, no settlement and no `message.process()`."""

    async def story(doors: Doors) -> None:
        await doors.fill("1")
        await (await doors.queue.get()).nack()
        await (await doors.queue.get()).reject(requeue=True)
        async with (await doors.queue.get()).process():
            pass

        kinds = ["publish", "receive", "nack", "receive", "reject", "receive", "process", "ack"]
        assert kinds == [facts(span)["messaging.operation.name"] for span in doors.telemetry.spans()]
        (process,), (ack,) = doors.spans("process"), doors.spans("ack")
        assert identity(process).span_id == parent(ack)

    tell(story)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # aio-pika would rather have coroutine functions
def test_c3_a_callback_that_is_no_coroutine_function_is_called_and_traced(tell: Tell) -> None:
    """Contrib awaits what it returned: a TypeError, and a span that says that the program has failed."""

    async def story(doors: Doors) -> None:
        seen: asyncio.Future[tuple[int, Task]] = asyncio.Future()

        def handle(_: AbstractIncomingMessage) -> None:
            seen.set_result((here().span_id, _this_task()))

        await doors.fill("1")
        await doors.queue.consume(handle, no_ack=True)  # type: ignore[arg-type]  # it would rather not
        inside, task = await seen
        await asyncio.wait([task])

        (process,) = doors.spans("process")
        assert identity(process).span_id == inside
        assert StatusCode.UNSET is process.status.status_code

    tell(story)


def test_c4_hooks_are_told_what_the_operation_is_about(telemetry: Telemetry, tell: Tell) -> None:
    """Contrib has no hooks."""
    told: list[tuple[str, str, str | None, object]] = []

    def hook(_: Span, message: Message) -> None:
        told.append((message.exchange, message.routing_key, message.queue, message.body))

    async def story(doors: Doors) -> None:
        await doors.fill("body")
        await (await doors.queue.get()).ack()

        name = doors.queue.name
        assert [("", name, None, b"body"), ("", name, name, b"body"), ("", name, name, None)] == told

    waybill.uninstrument()
    telemetry.instrument(hooks=Hooks(publish=hook, consume=hook, settle=hook))
    tell(story)


def test_c5_destinations_are_named_by_the_conventions_and_not_called_temporary(
    tell: Tell, unique: Unique
) -> None:
    """Contrib joins exchange and routing key by a comma, and calls every destination temporary."""

    async def story(doors: Doors) -> None:
        exchange = await doors.channel.declare_exchange(unique("exchange"))
        await doors.queue.bind(exchange, "key")
        await doors.fill("1")
        await exchange.publish(aio_pika.Message(b"2"), "key")
        await _consumed(doors, 2)
        await exchange.delete()

        name = doors.queue.name
        spans = (*doors.telemetry.publishes(), *doors.telemetry.processes())
        assert {
            f"publish {name}": name,
            f"publish {exchange.name}:key": f"{exchange.name}:key",
            f"process {name}": name,
            f"process {exchange.name}:key:{name}": f"{exchange.name}:key:{name}",
        } == {span.name: facts(span)["messaging.destination.name"] for span in spans}
        assert not any("temp" in key for span in spans for key in facts(span))

    tell(story)


def test_c6_a_message_that_nobody_can_route_is_an_error_of_its_publish(tell: Tell, unique: Unique) -> None:
    """Where the channel does not raise for it, contrib reports a success; the program gets what it got."""

    async def story(doors: Doors) -> None:
        returned = await doors.exchange.publish(aio_pika.Message(b""), unique("nowhere"))

        assert isinstance(returned, DeliveredMessage)
        (publish,) = doors.telemetry.publishes()
        assert StatusCode.ERROR is publish.status.status_code
        assert "PublishError" == facts(publish)["error.type"]

    tell(story)


def test_c7_a_handler_that_is_cancelled_has_failed(tell: Tell) -> None:
    """In contrib its span looks like that of a success."""

    async def story(doors: Doors) -> None:
        started: asyncio.Future[Task] = asyncio.Future()

        async def handle(_: AbstractIncomingMessage) -> None:
            started.set_result(_this_task())
            await asyncio.Event().wait()

        await doors.fill("1")
        await doors.queue.consume(handle)
        task = await started
        task.cancel()
        await asyncio.wait([task])

        (process,) = doors.telemetry.processes()
        assert StatusCode.ERROR is process.status.status_code
        assert "asyncio.CancelledError" == facts(process)["error.type"]

    tell(story)


def test_c8_a_message_without_a_table_of_headers_is_sent(tell: Tell) -> None:
    """Contrib injects into None: a TypeError where there is none without it."""

    async def story(doors: Doors) -> None:
        message = aio_pika.Message(b"")
        message.headers = None  # type: ignore[assignment]  # aio-pika takes it
        await doors.send(message)
        (came,) = await _consumed(doors)

        (publish,) = doors.spans("publish")
        assert f"{identity(publish).span_id:016x}" == str(came.headers["traceparent"]).split("-")[2]
        assert message.headers is None

    tell(story)


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage"])
@pytest.mark.parametrize("value", [bytearray(b"\xff"), 12345, True, None, [1], {"a": 1}, "\x00"], ids=repr)
def test_c9_malformed_headers_do_not_keep_a_message_from_its_callback(
    tell: Tell, name: str, value: FieldValue
) -> None:
    """In contrib a TypeError comes before the callback, and the message is never settled."""

    async def story(doors: Doors) -> None:
        hostile = aio_pika.Message(b"", headers={name: value, "kept": "as it is"})
        await _send_bare(doors, hostile, hostile, hostile)
        came = await _consumed(doors, 3)

        assert ["as it is"] * 3 == [message.headers["kept"] for message in came]
        assert 3 == len(doors.spans("process"))

    tell(story)


def test_c10_messages_of_the_caller_are_neither_changed_nor_carry_over(tell: Tell) -> None:
    """Contrib writes into their headers, so that the second has the baggage of the first."""

    async def story(doors: Doors) -> None:
        mine: dict[str, Any] = {"mine": 1}
        message = aio_pika.Message(b"", headers=mine)
        token = otel.attach(baggage.set_baggage("color", "blue"))
        await doors.send(message)
        otel.detach(token)
        await doors.send(message)
        first, second = await _consumed(doors, 2)

        assert {"mine": 1} == mine
        assert mine is message.headers
        assert "color=blue" == first.headers["baggage"]
        assert "baggage" not in second.headers

    tell(story)


def test_c10_a_message_that_is_forwarded_keeps_the_headers_that_it_came_with(tell: Tell) -> None:
    """In contrib whoever looks at it afterwards sees the trace of the forwarding."""

    async def story(doors: Doors) -> None:
        await doors.fill("1")
        (came,) = await _consumed(doors)
        before = dict(came.headers)
        await doors.send(came)
        (again,) = await _consumed(doors)

        assert before == came.headers
        assert before["traceparent"] != again.headers["traceparent"]

    tell(story)


def test_c11_the_port_is_the_one_that_was_connected_to(
    telemetry: Telemetry, amqp_url: str, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contrib says 5672 where the address names no port, and amqps has another."""
    asked: list[tuple[str, int]] = []
    broker, connect = URL(amqp_url), asyncio.open_connection

    async def lead(host: str, port: int, **_: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Lead every connection to the broker of the tests, which has no TLS."""
        asked.append((host, port))
        return await connect(broker.host, broker.port)

    async def story() -> None:
        for scheme in ("amqp", "amqps"):
            url = broker.with_scheme(scheme).with_host("b.example").with_port(None)
            async with await aio_pika.connect(url) as connection:
                channel = await connection.channel()
                queue = await channel.declare_queue(unique("port"), exclusive=True)
                await channel.default_exchange.publish(aio_pika.Message(b""), queue.name)
                await _consumed(Doors(telemetry, channel, queue))

    monkeypatch.setattr(asyncio, "open_connection", lead)
    asyncio.run(story())

    assert [("b.example", 5672), ("b.example", 5671)] == asked
    for spans in (telemetry.publishes(), telemetry.processes()):
        assert asked == [(facts(span)["server.address"], facts(span)["server.port"]) for span in spans]


class _Sparing(TraceContextTextMapPropagator):
    """A propagator that has some messages not traced."""

    def extract(
        self, carrier: T, context: Context | None = None, getter: Getter[T] = default_getter
    ) -> Context:
        """Say so in the context."""
        context = super().extract(carrier, context, getter)
        return otel.set_value("suppress_instrumentation", value=True, context=context)


def test_c12_nothing_of_a_message_stays_current_after_its_handler(
    tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In contrib the context of a message stays where no span is made for it."""
    monkeypatch.setattr("opentelemetry.propagate._HTTP_TEXT_FORMAT", _Sparing())
    variables: dict[Task, Variables] = {}

    def remembered(loop: asyncio.AbstractEventLoop, coroutine: Running[T], **_: object) -> asyncio.Task[T]:
        context = copy_context()
        task = asyncio.Task(coroutine, loop=loop, context=context)
        variables[task] = context
        return task

    async def story(doors: Doors) -> None:
        asyncio.get_running_loop().set_task_factory(remembered)
        handling: asyncio.Future[Task] = asyncio.Future()

        async def handle(_: AbstractIncomingMessage) -> None:
            assert here().is_valid
            handling.set_result(_this_task())

        await doors.fill("1")
        await doors.queue.consume(handle, no_ack=True)
        task = await handling
        await asyncio.wait([task])

        assert not variables[task].run(here).is_valid
        assert variables[task].run(is_instrumentation_enabled)

    tell(story)


class _Reticent:
    """A channel that shows what aio-pika documents, and nothing else."""

    def __init__(self, channel: object) -> None:
        self.__channel = channel

    @property  # type: ignore[misc]  # nobody sets it
    def __class__(self) -> type:
        """What it passes for."""
        return type(self.__channel)

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.__channel, name)


def test_c13_messages_come_and_go_whatever_a_channel_hides(tell: Tell) -> None:
    """Contrib reads a private attribute of the channel, and fails the publish where there is none."""

    async def story(doors: Doors) -> None:
        await doors.fill("1")
        exchange, queue = cast("aio_pika.Exchange", doors.exchange), cast("aio_pika.Queue", doors.queue)
        exchange.channel = _Reticent(exchange.channel)  # type: ignore[assignment]  # it passes for one
        queue.channel = _Reticent(queue.channel)  # type: ignore[assignment]  # likewise
        await doors.fill("2")
        assert [b"1", b"2"] == [message.body for message in await _consumed(doors, 2)]

        shown, _ = doors.spans("publish")
        addresses = {facts(span)["server.address"] for span in (shown, *doors.spans("process"))}
        assert 1 == len(addresses)

    tell(story)
