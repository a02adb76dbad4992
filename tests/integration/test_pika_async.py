"""The doors of pika's asynchronous channels, under each event loop that runs them, on a real broker."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeAlias

import pika
import pytest
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind, StatusCode
from pika.channel import Channel
from pika.frame import Header
from pika.frame import Method as MethodFrame
from pika.spec import Basic, BasicProperties

import otel_waybill as waybill
from conformance.telemetry import here, links, parent
from integration.pika_loops import LOOPS, Done, Loop, on_asyncio, on_select, on_tornado, play
from integration.pika_recording import (
    Recorded,
    Unique,
    attributes,
    declared,
    identity,
    opened,
    parked,
    recording,
    send_bare,
)
from otel_waybill.clients.pika.confirm import Confirms
from otel_waybill.errors import InvalidPolicy

if TYPE_CHECKING:
    from pika.frame import Method

    Frame: TypeAlias = Method[Basic.Ack | Basic.Nack]


def fill(url: str, queue: str, count: int = 1) -> None:
    """Publish without being instrumented."""
    with opened(url) as channel:
        send_bare(channel, queue, count)


# ---------------------------------------------------------- P2 and P8: publish, basic_consume


@pytest.mark.parametrize("loop", LOOPS)
def test_a_message_goes_round(
    recorded: Recorded, amqp_url: str, queue: str, loop: Callable[[], Loop]
) -> None:
    """Publish, process and ack are one trace; the callback's return ends what was current in it."""
    seen: list[tuple[int, str | None]] = []
    outside: list[bool] = []

    def scenario(channel: Channel, done: Done) -> None:
        def handle(on: Channel, method: Basic.Deliver, _: BasicProperties, __: bytes) -> None:
            seen.append((here().span_id, waybill.current().request_id))
            on.basic_ack(method.delivery_tag)

        def later() -> None:
            outside.append(here().is_valid)
            channel.connection._adapter_call_later(0, done) if seen else wait()

        def wait() -> None:
            channel.connection._adapter_call_later(0.1, later)

        wait()
        channel.basic_consume(queue, handle)
        with recorded.tracer.start_as_current_span("sender"), waybill.request(id="r"):
            channel.basic_publish("", queue, b"")
        outside.append(here().is_valid)

    play(loop(), amqp_url, scenario)

    publish, process, ack = recorded.one("publish"), recorded.one("process"), recorded.one("ack")
    assert [(identity(process), "r")] == seen
    assert {False} == set(outside)
    assert SpanKind.CONSUMER is process.kind
    assert identity(publish) == parent(process)
    assert [identity(publish)] == links(process)
    assert identity(process) == parent(ack)
    assert f"ack {queue}" == ack.name
    assert 1 == recorded.count("messaging.client.consumed.messages")


@pytest.mark.parametrize("loop", [on_asyncio, on_tornado])
def test_the_span_around_the_connection_has_nothing_to_do_with_a_message(
    recorded: Recorded, amqp_url: str, queue: str, loop: Callable[[], Loop]
) -> None:
    """Asyncio calls readers in the context of `connect`: no parent, no link, not even without a trace."""
    fill(amqp_url, queue)
    seen: list[bool] = []

    def scenario(channel: Channel, done: Done) -> None:
        def handle(*_: object) -> None:
            seen.append(True)
            done()

        channel.basic_consume(queue, handle, auto_ack=True)

    with recorded.tracer.start_as_current_span("at startup"):
        play(loop(), amqp_url, scenario)

    process = recorded.one("process")
    assert [True] == seen
    assert None is process.parent
    assert [] == links(process)


def test_the_span_around_a_running_loop_is_linked(recorded: Recorded, amqp_url: str, queue: str) -> None:
    """SelectConnection runs in the program's own context, as the blocking adapter does."""
    fill(amqp_url, queue)

    def scenario(channel: Channel, done: Done) -> None:
        channel.basic_consume(queue, lambda *_: done(), auto_ack=True)

    with recorded.tracer.start_as_current_span("around") as around:
        play(on_select(), amqp_url, scenario)

    assert around.get_span_context().span_id == parent(recorded.one("process"))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_callback_that_raises_is_an_error_and_raises(
    recorded: Recorded, amqp_url: str, queue: str, loop: Callable[[], Loop], caplog: pytest.LogCaptureFixture
) -> None:
    """What it raises reaches pika unchanged, which gives up the connection for it."""
    fill(amqp_url, queue)

    def scenario(channel: Channel, _: Done) -> None:
        def handle(*_: object) -> None:
            msg = "from the callback"
            raise ZeroDivisionError(msg)

        channel.basic_consume(queue, handle)

    play(loop(), amqp_url, scenario, aborted=True)

    process = recorded.one("process")
    assert StatusCode.ERROR is process.status.status_code
    assert "ZeroDivisionError" == attributes(process)["error.type"]
    assert "ZeroDivisionError('from the callback')" in caplog.text
    assert not here().is_valid


def test_one_span_for_a_message_of_the_blocking_adapter(
    recorded: Recorded, amqp_url: str, unique: Unique
) -> None:
    """BlockingChannel consumes through Channel: one process span, in its own callback."""
    with opened(amqp_url) as channel:
        queue = declared(channel, unique)
        channel.basic_publish("", queue, b"")
        channel.basic_consume(queue, lambda *_: None, auto_ack=True)
        channel.connection.process_data_events(time_limit=1)

    assert ["publish", "process"] == recorded.operations


def test_suppressed_means_as_if_uninstrumented(recorded: Recorded, amqp_url: str, queue: str) -> None:
    """The callback is called and nothing is recorded or attached."""
    fill(amqp_url, queue)
    seen: list[bool] = []

    def scenario(channel: Channel, done: Done) -> None:
        def handle(*_: object) -> None:
            seen.append(here().is_valid)
            done()

        channel.confirm_delivery(lambda _: None)
        channel.basic_consume(queue, handle, auto_ack=True)

    with suppress_instrumentation():
        play(on_select(), amqp_url, scenario)

    assert [False] == seen
    assert [] == recorded.operations


# --------------------------------------------------------------------- policies


RETRY = waybill.Retry(attempts=2, backoff=waybill.Backoff(first=0.2, ceiling=0.2, jitter="none"))


@pytest.mark.parametrize("instrumented", [True, False], ids=["instrumented", "bare"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_policy_stands_under_every_loop(
    amqp_url: str, policed: str, loop: Callable[[], Loop], *, instrumented: bool
) -> None:
    """A message that fails is tried again, by the broker, and then parked: nothing is left to redeliver."""
    attempts: list[int] = []

    def scenario(channel: Channel, done: Done) -> None:
        def handle(*_: object) -> None:
            attempts.append(waybill.current().attempt)
            if len(attempts) == 2:
                channel.connection._adapter_call_later(0.3, done)
            raise LookupError

        channel.basic_consume(policed, waybill.Policy(retry=RETRY).wrap(handle, queue=policed))

    with recording() if instrumented else nullcontext():
        play(loop(), amqp_url, scenario)

    assert [1, 2] == attempts
    assert 1 == parked(amqp_url, policed)


def test_a_fetched_message_runs_under_a_policy(recorded: Recorded, amqp_url: str, policed: str) -> None:
    """The callback of `basic_get` can be wrapped; its queue is known, and the message counts once."""
    seen: list[tuple[int, bool]] = []

    def scenario(channel: Channel, done: Done) -> None:
        def handle(*_: object) -> None:
            seen.append((waybill.current().attempt, here().is_valid))
            channel.connection._adapter_call_later(0.1, done)

        channel.basic_get(policed, waybill.Policy().wrap(handle))

    play(on_select(), amqp_url, scenario)

    assert [(1, True)] == seen
    assert ["receive", "ack", "process"] == recorded.operations
    assert 1 == recorded.count("messaging.client.consumed.messages")


def test_a_message_that_is_fetched_without_acknowledgements_can_have_no_policy(
    recorded: Recorded, amqp_url: str, policed: str
) -> None:
    """It is refused before anything is fetched."""

    def scenario(channel: Channel, done: Done) -> None:
        with pytest.raises(InvalidPolicy, match="without acknowledgements"):
            channel.basic_get(policed, waybill.Policy().wrap(lambda *_: None), auto_ack=True)
        done()

    play(on_select(), amqp_url, scenario)

    assert [] == recorded.operations


def test_run_says_that_it_cannot_wait(amqp_url: str, policed: str) -> None:
    """An asynchronous channel has nobody who could pump it until there is an outcome."""
    told: list[str] = []

    def scenario(channel: Channel, done: Done) -> None:
        def got(*message: object) -> None:
            with pytest.raises(InvalidPolicy, match=r"policy\.wrap") as caught:
                waybill.Policy().run(*message, lambda *_: pytest.fail("called"), queue=policed)  # type: ignore[call-overload]  # that is it
            told.append(str(caught.value))
            done()

        channel.basic_get(policed, got)

    play(on_select(), amqp_url, scenario)

    assert 1 == len(told)


def test_a_consumer_of_a_queue_that_does_not_exist_fails_as_ever(
    recorded: Recorded, amqp_url: str, unique: Unique
) -> None:
    """Whoever hears of it first, the broker's answer to the program or ours, the channel ends with 404."""
    queue, reasons = unique("missing"), []

    def scenario(channel: Channel, done: Done) -> None:
        def closed(_: Channel, reason: Exception) -> None:
            reasons.append(str(reason))
            done()

        channel.add_on_close_callback(closed)
        channel.basic_consume(queue, waybill.Policy().wrap(lambda *_: None))

    play(on_select(), amqp_url, scenario)

    assert 1 == len(reasons)
    assert "NOT_FOUND" in reasons[0]
    assert [] == recorded.operations
    with opened(amqp_url) as channel:
        channel.queue_delete(f"{queue}.parked")


def test_a_connection_that_closes_early_leaves_no_fault(
    recorded: Recorded, amqp_url: str, policed: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A program may close its connection before the broker has answered to the first declaration."""

    def scenario(channel: Channel, done: Done) -> None:
        channel.basic_consume(policed, waybill.Policy().wrap(lambda *_: pytest.fail("called")))
        done()

    play(on_select(), amqp_url, scenario)

    assert [] == recorded.operations
    assert [] == [record for record in caplog.records if record.name == "otel_waybill"]


# --------------------------------------------------------------- P9: basic_get


@pytest.mark.parametrize("loop", LOOPS)
def test_a_fetched_message_has_a_receive_span(
    recorded: Recorded, amqp_url: str, queue: str, loop: Callable[[], Loop]
) -> None:
    """It belongs to whoever asked; in the callback the message's context is current, and only there."""
    seen: list[tuple[int, str | None]] = []
    asked: list[int] = []

    def scenario(channel: Channel, done: Done) -> None:
        def got(on: Channel, method: Basic.GetOk, _: BasicProperties, body: bytes) -> None:
            assert b"fetched" == body
            seen.append((here().span_id, waybill.current().request_id))
            on.basic_ack(method.delivery_tag)
            done()

        with recorded.tracer.start_as_current_span("sender"), waybill.request(id="r"):
            channel.basic_publish("", queue, b"fetched")
        with recorded.tracer.start_as_current_span("fetcher"):
            channel.basic_get(queue, got)
        asked.append(time.time_ns())

    play(loop(), amqp_url, scenario)

    publish, receive, ack = recorded.one("publish"), recorded.one("receive"), recorded.one("ack")
    (fetcher,) = [span for span in recorded.spans if span.name == "fetcher"]
    assert [(identity(publish), "r")] == seen
    assert SpanKind.CLIENT is receive.kind
    assert identity(fetcher) == parent(receive)
    assert [identity(publish)] == links(receive)
    assert identity(publish) == parent(ack)
    assert receive.start_time is not None
    assert receive.start_time <= asked[0]


def test_an_empty_queue_leaves_no_trace_and_a_second_fetch_works(
    recorded: Recorded, amqp_url: str, queue: str
) -> None:
    """Pika does not call back for an empty answer, and takes the next callback."""
    seen: list[bytes] = []

    def scenario(channel: Channel, done: Done) -> None:
        def empty(_: object) -> None:
            channel.basic_publish("", queue, b"now")
            channel.basic_get(queue, got, auto_ack=True)

        def got(*delivery: object) -> None:
            seen.append(delivery[3])  # type: ignore[arg-type]  # the body
            done()

        channel.add_callback(empty, [Basic.GetEmpty])
        channel.basic_get(queue, got, auto_ack=True)

    play(on_select(), amqp_url, scenario)

    assert [b"now"] == seen
    assert ["publish", "receive"] == recorded.operations


# ------------------------------------------------------ P14 and P15: confirms, returns


@pytest.mark.parametrize("loop", LOOPS)
def test_a_publish_ends_with_its_confirm(
    recorded: Recorded, amqp_url: str, queue: str, loop: Callable[[], Loop]
) -> None:
    """Nothing has ended when the calls return; all have when the program hears of the confirms."""
    ended: list[int] = []

    def scenario(channel: Channel, done: Done) -> None:
        confirmed: list[int] = []

        def heard(frame: "Frame") -> None:
            tags = range(1 + (confirmed or [0])[-1], frame.method.delivery_tag + 1)
            confirmed.extend(tags if frame.method.multiple else [frame.method.delivery_tag])
            if len(confirmed) == 3:
                ended.append(len(recorded.of("publish")))
                done()

        def selected(_: object) -> None:
            for _ in range(3):
                channel.basic_publish("", queue, b"")
            ended.append(len(recorded.of("publish")))

        channel.confirm_delivery(heard, selected)

    play(loop(), amqp_url, scenario)

    assert [0, 3] == ended
    assert [StatusCode.UNSET] * 3 == [span.status.status_code for span in recorded.of("publish")]


def test_nacked_and_unroutable_messages_are_errors_of_their_publishes_alone(
    recorded: Recorded, amqp_url: str, unique: Unique
) -> None:
    """Among many, on one channel, each answer of the broker finds its own span."""
    full, nowhere = unique("full"), unique("nowhere")
    with opened(amqp_url) as owner:
        owner.queue_declare(full, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})

        def scenario(channel: Channel, done: Done) -> None:
            left = set(range(1, 7))

            def heard(frame: "Frame") -> None:
                tag = frame.method.delivery_tag
                left.difference_update(range(1, tag + 1) if frame.method.multiple else [tag])
                if not left:
                    done()

            def selected(_: object) -> None:
                for key in (full, nowhere, full, nowhere):
                    channel.basic_publish("", key, b"", mandatory=True)
                channel.basic_publish("", nowhere, b"")  # not mandatory: dropped, which is no error
                channel.basic_publish("", nowhere, b"", BasicProperties(message_id="m"), mandatory=True)

            channel.confirm_delivery(heard, selected)

        play(on_select(), amqp_url, scenario)
        owner.queue_delete(full)

    by_sending = sorted(recorded.of("publish"), key=lambda span: span.start_time or 0)
    errors = [attributes(span).get("error.type") for span in by_sending]
    assert [None, "UnroutableError", "NackError", "UnroutableError", None, "UnroutableError"] == errors


def test_returned_messages_are_matched_without_a_w3c_trace(
    amqp_url: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another propagator equal messages share one fate, and each return fails one of them."""
    monkeypatch.setattr("opentelemetry.propagate._HTTP_TEXT_FORMAT", _Mute())

    def scenario(channel: Channel, done: Done) -> None:
        def confirmed(frame: "Frame") -> None:
            if frame.method.delivery_tag == 2:
                done()

        def selected(_: object) -> None:
            for _ in range(2):
                channel.basic_publish("", queue, b"", mandatory=True)
            # In the place of a broker that returns both before it confirms either, as it may.
            for _ in range(2):
                returned = Basic.Return(312, "NO_ROUTE", "", queue)
                header = Header(channel.channel_number, 0, BasicProperties())
                channel._on_return(MethodFrame(channel.channel_number, returned), header, b"")

        channel.confirm_delivery(confirmed, selected)

    with recording() as recorded:
        play(on_select(), amqp_url, scenario)

    assert ["UnroutableError"] * 2 == [attributes(span)["error.type"] for span in recorded.of("publish")]


class _Mute:
    """A propagator that writes nothing."""

    fields: frozenset[str] = frozenset()

    def inject(self, *_: object, **__: object) -> None:
        """Write nothing."""

    def extract(self, _: object, context: otel.Context | None = None, **__: object) -> otel.Context:
        """Read nothing."""
        return context or otel.Context()


def test_publishes_before_the_confirm_mode_are_not_counted(
    recorded: Recorded, amqp_url: str, unique: Unique
) -> None:
    """Pika holds the request back behind another one: what overtakes it must not shift the numbers."""
    nowhere = unique("nowhere")

    def scenario(channel: Channel, done: Done) -> None:
        def heard(_: object) -> None:
            done()

        def selected(_: object) -> None:
            channel.basic_publish("", nowhere, b"", mandatory=True)

        channel.exchange_declare(unique("x"), auto_delete=True, callback=lambda _: None)
        channel.confirm_delivery(heard, selected)
        channel.basic_publish("", nowhere, b"early", mandatory=True)

    play(on_select(), amqp_url, scenario)

    early, late = sorted(recorded.of("publish"), key=lambda span: span.start_time or 0)
    assert StatusCode.UNSET is early.status.status_code
    assert "UnroutableError" == attributes(late)["error.type"]


def test_suppressed_publishes_are_counted_all_the_same(
    recorded: Recorded, amqp_url: str, unique: Unique
) -> None:
    """The broker numbers them too, so the confirm of a later one still finds its span."""
    nowhere = unique("nowhere")

    def scenario(channel: Channel, done: Done) -> None:
        def heard(frame: "Frame") -> None:
            if frame.method.delivery_tag == 2:
                done()

        def selected(_: object) -> None:
            with suppress_instrumentation():
                channel.basic_publish("", nowhere, b"quiet")
            channel.basic_publish("", nowhere, b"loud", mandatory=True)

        channel.confirm_delivery(heard, selected)

    play(on_select(), amqp_url, scenario)

    assert "UnroutableError" == attributes(recorded.one("publish"))["error.type"]


def test_a_publish_that_cannot_be_sent_is_an_error_and_not_counted(
    recorded: Recorded, amqp_url: str, queue: str
) -> None:
    """What pika cannot encode never leaves, so the broker does not number it."""

    def scenario(channel: Channel, done: Done) -> None:
        def selected(_: object) -> None:
            with pytest.raises(pika.exceptions.UnsupportedAMQPFieldException):
                channel.basic_publish("", queue, b"", BasicProperties(headers={"k": object()}))
            channel.basic_publish("", queue, b"")

        channel.confirm_delivery(lambda _: done(), selected)

    play(on_select(), amqp_url, scenario)

    unsent, sent = recorded.of("publish")
    assert "UnsupportedAMQPFieldException" == attributes(unsent)["error.type"]
    assert StatusCode.UNSET is sent.status.status_code


@pytest.mark.parametrize("by_broker", [True, False])
def test_a_channel_that_closes_ends_what_waits_for_its_confirm(
    recorded: Recorded, amqp_url: str, queue: str, *, by_broker: bool
) -> None:
    """It is an error unless the program closed the channel itself; no span stays open for ever."""

    def scenario(channel: Channel, done: Done) -> None:
        channel.confirm_delivery(lambda _: None)
        channel.add_on_close_callback(lambda *_: done())
        if by_broker:
            channel.basic_publish(f"{queue}-missing", "", b"")
        else:
            # Faster than any confirm: both are written before anything is read.
            channel.basic_publish("", queue, b"")
            channel.callbacks.remove(channel.channel_number, Basic.Ack)
            channel.close()

    play(on_select(), amqp_url, scenario)

    error = attributes(recorded.one("publish")).get("error.type")
    assert ("ChannelClosedByBroker" if by_broker else None) == error


def test_publishes_that_wait_are_bounded(
    recorded: Recorded, amqp_url: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest end without a confirm, and a confirm that finds nothing changes nothing."""
    monkeypatch.setattr(Confirms, "MOST", 2)
    ended: list[int] = []

    def scenario(channel: Channel, done: Done) -> None:
        def heard(frame: "Frame") -> None:
            if frame.method.delivery_tag == 5:
                done()

        def selected(_: object) -> None:
            for _ in range(5):
                channel.basic_publish("", queue, b"")
            ended.append(len(recorded.of("publish")))

        channel.confirm_delivery(heard, selected)

    play(on_select(), amqp_url, scenario)

    assert [3] == ended
    assert 5 == len(recorded.of("publish"))


def test_a_channel_that_refuses_confirms_keeps_nothing_of_ours(recorded: Recorded, amqp_url: str) -> None:
    """Pika says what is wrong, and no callback is left behind."""
    left: list[object] = []

    def scenario(channel: Channel, done: Done) -> None:
        stack = channel.callbacks._stack[str(channel.channel_number)]

        def registered() -> dict[str, int]:
            return {str(key): len(each) for key, each in stack.items() if each}

        before = registered()
        with pytest.raises(ValueError, match="callback"):
            channel.confirm_delivery(None)  # type: ignore[arg-type]  # what a program may get wrong
        left.append(before == registered())
        done()

    play(on_select(), amqp_url, scenario)

    assert [True] == left
    assert [] == recorded.operations


def test_nothing_is_matched_across_two_instrumentations(amqp_url: str, queue: str) -> None:
    """What was published while uninstrumented was not counted, so later publishes end with their call."""
    first, second = recording(), recording()
    ended: list[int] = []

    def scenario(channel: Channel, done: Done) -> None:
        def heard(frame: "Frame") -> None:
            if frame.method.delivery_tag == 2:
                second.__exit__(None, None, None)
                done()

        def selected(_: object) -> None:
            first.__exit__(None, None, None)
            channel.basic_publish("", queue, b"uninstrumented")
            recorded = second.__enter__()
            channel.basic_publish("", queue, b"again")
            ended.append(len(recorded.of("publish")))

        first.__enter__()
        channel.confirm_delivery(heard, selected)

    play(on_select(), amqp_url, scenario)

    assert [1] == ended


def test_a_publish_without_confirms_ends_with_its_call(recorded: Recorded, amqp_url: str, queue: str) -> None:
    """There is nothing to wait for, and a return that comes later changes nothing."""
    ended: list[int] = []

    def scenario(channel: Channel, done: Done) -> None:
        channel.add_on_return_callback(lambda *_: done())
        channel.basic_publish("", f"{queue}-missing", b"", mandatory=True)
        ended.append(len(recorded.of("publish")))

    play(on_select(), amqp_url, scenario)

    assert [1] == ended
    assert StatusCode.UNSET is recorded.one("publish").status.status_code


def test_the_blocking_adapter_keeps_its_confirms(recorded: Recorded, amqp_url: str, unique: Unique) -> None:
    """Its channels are confirmed by its own callback, and one publish is one span."""
    with opened(amqp_url) as channel:
        queue = declared(channel, unique)
        channel.confirm_delivery()
        before = time.perf_counter()
        channel.basic_publish("", queue, b"")
        assert time.perf_counter() - before < 5

    assert ["publish"] == recorded.operations
    assert trace.INVALID_SPAN.get_span_context() == here()
