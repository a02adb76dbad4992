"""The doors of pika's blocking adapter: every way to send, fetch and settle, on a real broker."""

import gc
import logging
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pika
import pytest
from opentelemetry import baggage
from opentelemetry import context as otel
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind, StatusCode
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker, NackError, UnroutableError
from pika.spec import Basic, BasicProperties

import otel_waybill as waybill
from conformance.telemetry import here, links, parent
from integration.pika_recording import (
    Recorded,
    Unique,
    attributes,
    declared,
    identity,
    opened,
    recording,
    send_bare,
)
from otel_waybill.clients.pika import pull
from otel_waybill.core.delivery import Result
from otel_waybill.errors import InvalidPolicy
from otel_waybill.patching import passthrough


def _send(recorded: Recorded, channel: BlockingChannel, queue: str, count: int = 1) -> None:
    """Publish within one request, from spans that end here."""
    for number in range(count):
        with recorded.tracer.start_as_current_span("sender"), waybill.request(id=f"r{number}"):
            channel.basic_publish("", queue, str(number).encode())


# ---------------------------------------------------------------- P1: publish


def test_an_unroutable_message_is_an_error_of_its_publish(
    recorded: Recorded, channel: BlockingChannel, unique: Unique
) -> None:
    """The confirm is waited for inside the span, so what pika raises is on it, once."""
    channel.confirm_delivery()
    with pytest.raises(UnroutableError):
        channel.basic_publish("", unique("nowhere"), b"", mandatory=True)

    span = recorded.one("publish")
    assert StatusCode.ERROR is span.status.status_code
    assert "UnroutableError" == attributes(span)["error.type"]
    assert 1 == len(span.events)


def test_a_nacked_message_is_an_error_of_its_publish(
    recorded: Recorded, channel: BlockingChannel, unique: Unique
) -> None:
    """A queue that is full and rejects: the broker's nack arrives as NackError."""
    queue = declared(channel, unique, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"fits")
    with pytest.raises(NackError):
        channel.basic_publish("", queue, b"does not")

    fits, refused = recorded.of("publish")
    assert StatusCode.UNSET is fits.status.status_code
    assert "NackError" == attributes(refused)["error.type"]


class Tenanted(BasicProperties):
    """Properties of a program's own, which keeps something beside them."""

    __slots__ = ("tenant",)

    def __init__(self, tenant: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # pika left it out
        self.tenant = tenant

    def encode(self) -> Any:  # noqa: ANN401 - pika does not say
        """Put it where it goes."""
        self.app_id = self.tenant
        return super().encode()  # type: ignore[no-untyped-call]  # pika left it out


def test_properties_of_a_class_of_its_own_are_copied_whole(
    recorded: Recorded, channel: BlockingChannel, queue: str
) -> None:
    """What goes out is of the same class and knows the same, and what was passed is not changed."""
    properties = Tenanted("acme")
    channel.basic_publish("", queue, b"", properties)

    _, received, _ = channel.basic_get(queue, auto_ack=True)
    assert received is not None
    assert "acme" == received.app_id
    assert received.headers is not None
    assert f"{identity(recorded.one('publish')):016x}" in received.headers["traceparent"]
    assert properties.headers is properties.app_id is None


# --------------------------------------------------------------- P7: basic_get


def test_a_fetched_message_has_a_receive_span(
    recorded: Recorded, channel: BlockingChannel, queue: str
) -> None:
    """It belongs to the program that fetches, and is linked to what made the message."""
    _send(recorded, channel, queue)
    with recorded.tracer.start_as_current_span("fetcher") as fetcher:
        method, _, body = channel.basic_get(queue)
        assert fetcher.get_span_context() == here()
        assert waybill.current().request_id is None

    span, publish = recorded.one("receive"), recorded.one("publish")
    assert method is not None
    assert b"0" == body
    assert SpanKind.CLIENT is span.kind
    assert f"receive {queue}" == span.name
    assert fetcher.get_span_context().span_id == parent(span)
    assert [identity(publish)] == links(span)
    assert method.delivery_tag == attributes(span)["messaging.rabbitmq.message.delivery_tag"]
    assert "receive" == attributes(span)["messaging.operation.type"]


def test_a_fetch_lasts_as_long_as_the_call(recorded: Recorded, channel: BlockingChannel, queue: str) -> None:
    """The receive span starts with the request to the broker, not with its answer."""
    fetches = []
    for _ in range(20):
        send_bare(channel, queue)
        before = time.time_ns()
        channel.basic_get(queue)
        fetches.append((before, time.time_ns()))

    starts = [span.start_time or 0 for span in recorded.of("receive")]
    # Any of them: the machine may be busy with something else in between. One that began with its answer
    # would begin with the very end.
    assert any(start - before < after - start for start, (before, after) in zip(starts, fetches, strict=True))


@pytest.mark.usefixtures("recorded")
def test_a_policy_cannot_run_what_is_acknowledged(channel: BlockingChannel, queue: str) -> None:
    """Nothing could be retried, and an ack would close the channel: it says so instead."""
    send_bare(channel, queue)
    method, properties, body = channel.basic_get(queue, auto_ack=True)
    assert method is not None
    assert properties is not None
    assert body is not None
    with pytest.raises(waybill.InvalidPolicy, match="fetched with auto_ack"):
        waybill.Policy().run(channel, method, properties, body, print, queue=queue)
    channel.connection.process_data_events(0)
    assert channel.is_open


def test_an_empty_queue_leaves_no_trace(recorded: Recorded, channel: BlockingChannel, queue: str) -> None:
    """No message, no span and nothing counted."""
    assert (None, None, None) == channel.basic_get(queue)

    assert [] == recorded.operations
    assert 0 == recorded.count("messaging.client.consumed.messages")


def test_a_fetch_that_fails_is_an_error(recorded: Recorded, channel: BlockingChannel, unique: Unique) -> None:
    """A queue that does not exist closes the channel: the program's exception, and a span that says so."""
    with pytest.raises(ChannelClosedByBroker):
        channel.basic_get(unique("missing"))

    assert "ChannelClosedByBroker" == attributes(recorded.one("receive"))["error.type"]
    assert 0 == recorded.count("messaging.client.consumed.messages")


def test_settling_a_fetched_message_says_what_it_was(
    recorded: Recorded, channel: BlockingChannel, queue: str
) -> None:
    """The delivery tag of the ack is looked up in what was fetched."""
    send_bare(channel, queue)
    method, _, _ = channel.basic_get(queue)
    assert method is not None
    channel.basic_ack(method.delivery_tag)

    assert f"ack {queue}" == recorded.one("ack").name


def test_a_policy_runs_a_fetched_message_without_being_told_its_queue(
    recorded: Recorded, channel: BlockingChannel, queue: str
) -> None:
    """`basic_get` remembers it; the message counts once, and its request is current in the handler."""
    _send(recorded, channel, queue)
    seen: list[str | None] = []
    method, properties, body = channel.basic_get(queue)
    assert method is not None
    assert properties is not None
    assert body is not None
    outcome = waybill.Policy().run(
        channel, method, properties, body, lambda *_: seen.append(waybill.current().request_id)
    )

    assert Result.HANDLED is outcome.result
    assert ["r0"] == seen
    assert f"process {queue}" == recorded.one("process").name
    assert 1 == recorded.count("messaging.client.consumed.messages")
    channel.queue_delete(f"{queue}.parked")


# ------------------------------------------------------------- P6: consume()


def test_the_body_of_a_loop_has_the_context_of_its_message(
    recorded: Recorded, channel: BlockingChannel, queue: str
) -> None:
    """Trace, baggage and waybill of each message, until the next step; then what was there before."""
    with recorded.tracer.start_as_current_span("sender"):
        token = otel.attach(baggage.set_baggage("color", "blue"))
        _send(recorded, channel, queue, 2)
        otel.detach(token)
    seen = []
    with recorded.tracer.start_as_current_span("looper") as looper:
        for method, _, _ in channel.consume(queue):
            assert method is not None
            seen.append((here().span_id, waybill.current().request_id, baggage.get_baggage("color")))
            channel.basic_ack(method.delivery_tag)
            if len(seen) == 2:
                break
        assert looper.get_span_context() == here()
        assert waybill.current().request_id is None
        assert baggage.get_baggage("color") is None
        channel.cancel()

    one, other = map(identity, recorded.of("publish"))
    assert [(one, "r0", "blue"), (other, "r1", "blue")] == seen
    assert [[one], [other]] == [links(span) for span in recorded.of("receive")]
    assert [looper.get_span_context().span_id] * 2 == [parent(span) for span in recorded.of("receive")]
    assert [one, other] == [parent(span) for span in recorded.of("ack")]


def test_what_only_sits_in_the_buffer_leaves_no_trace(
    recorded: Recorded, channel: BlockingChannel, queue: str
) -> None:
    """Five arrive, one is handed over, four are given back by `cancel`: one span, and no rejects."""
    send_bare(channel, queue, 5)
    for _ in channel.consume(queue, auto_ack=False):
        while channel.get_waiting_message_count() < 4:
            channel.connection.process_data_events(time_limit=0.1)
        break
    channel.cancel()

    assert ["receive"] == recorded.operations
    assert 1 == recorded.count("messaging.client.consumed.messages")


def test_cancelling_a_callback_consumer_leaves_no_trace_of_what_it_never_got(
    recorded: Recorded, channel: BlockingChannel, queue: str
) -> None:
    """What pika buffers and rejects by itself in `basic_cancel` was never delivered."""
    send_bare(channel, queue, 3)
    tag = channel.basic_consume(queue, lambda *_: pytest.fail("delivered"))
    while len(channel._pending_events) < 3:
        channel._flush_output(lambda: len(channel._pending_events) >= 3)
    channel.basic_cancel(tag)

    assert [] == recorded.operations


def _breaks(channel: BlockingChannel, queue: str) -> None:
    for _ in channel.consume(queue):
        assert here().is_valid
        break


def _returns(channel: BlockingChannel, queue: str) -> None:
    for _ in channel.consume(queue):
        assert here().is_valid
        return


def _raises(channel: BlockingChannel, queue: str) -> None:
    try:
        for _ in channel.consume(queue):
            assert here().is_valid
            1 / 0  # noqa: B018 - raises
    except ZeroDivisionError:
        assert not here().is_valid


def _raises_outwards(channel: BlockingChannel, queue: str) -> None:
    def loop() -> None:
        for _ in channel.consume(queue):
            msg = "from the body"
            raise ZeroDivisionError(msg)

    with pytest.raises(ZeroDivisionError):
        loop()


def _closes(channel: BlockingChannel, queue: str) -> None:
    loop = channel.consume(queue)
    next(loop)
    assert here().is_valid
    loop.close()


def _throws(channel: BlockingChannel, queue: str) -> None:
    loop = channel.consume(queue)
    next(loop)
    with pytest.raises(ZeroDivisionError):
        loop.throw(ZeroDivisionError())


def _holds_and_cancels(channel: BlockingChannel, queue: str) -> None:
    loop = channel.consume(queue)
    for _ in loop:
        break
    channel.cancel()
    assert not here().is_valid
    assert [] == list(loop)


def _holds_and_closes_the_channel(channel: BlockingChannel, queue: str) -> None:
    loop = channel.consume(queue)
    next(loop)
    channel.close()
    assert not here().is_valid
    del loop


def _holds_and_drops(channel: BlockingChannel, queue: str) -> None:
    loop = channel.consume(queue)
    for _ in loop:
        break
    del loop
    gc.collect()


def _holds_and_consumes_again(channel: BlockingChannel, queue: str) -> None:
    first = channel.consume(queue)
    next(first)
    for _ in channel.consume(queue):
        break
    assert not here().is_valid
    del first


def _cancels_inside(channel: BlockingChannel, queue: str) -> None:
    for _ in channel.consume(queue):
        channel.cancel()


@pytest.mark.parametrize(
    "leave",
    [
        _breaks,
        _returns,
        _raises,
        _raises_outwards,
        _closes,
        _throws,
        _holds_and_cancels,
        _holds_and_closes_the_channel,
        _holds_and_drops,
        _holds_and_consumes_again,
        _cancels_inside,
    ],
)
@pytest.mark.usefixtures("recorded")
def test_however_a_loop_is_left_nothing_of_its_message_stays(
    recorded: Recorded,
    channel: BlockingChannel,
    queue: str,
    leave: Callable[[BlockingChannel, str], None],
) -> None:
    """Afterwards no span is current and no context of a message either."""
    _send(recorded, channel, queue, 3)
    before = otel.get_current()
    leave(channel, queue)

    assert before is otel.get_current()


def test_stepping_by_hand_inside_blocks_of_the_program_mixes_nothing_up(
    recorded: Recorded, channel: BlockingChannel, queue: str
) -> None:
    """A step neither revives a span that has ended nor ends one that has not, in whatever order they come."""
    _send(recorded, channel, queue, 4)
    tracer, loop = recorded.tracer, channel.consume(queue)
    with tracer.start_as_current_span("first"):
        next(loop)
    assert not here().is_valid
    next(loop)
    with tracer.start_as_current_span("second") as second:
        next(loop)
        assert second.get_span_context() != here()
    next(loop)
    loop.close()

    assert not here().is_valid


def test_stepping_by_hand_costs_no_memory(recorded: Recorded, channel: BlockingChannel, queue: str) -> None:
    """What a block of the program has taken away already is forgotten."""
    _send(recorded, channel, queue, 20)
    loop = channel.consume(queue)
    for _ in range(20):
        with recorded.tracer.start_as_current_span("step"):
            next(loop)

    body = pull._bodies.seen(channel)
    assert body is not None
    assert 2 >= len(body._entered)
    loop.close()


def test_a_loop_passes_on_that_nothing_came(recorded: Recorded, channel: BlockingChannel, queue: str) -> None:
    """`inactivity_timeout` gives three times None, outside of any message's context."""
    _send(recorded, channel, queue)
    seen = []
    for step in channel.consume(queue, inactivity_timeout=0.1):
        seen.append((step[0] is not None, here().is_valid))
        if len(seen) == 2:
            break
    channel.cancel()

    assert [(True, True), (False, False)] == seen
    assert 1 == len(recorded.of("receive"))


def test_callbacks_that_run_between_two_steps_are_not_part_of_a_message(
    recorded: Recorded, channel: BlockingChannel, queue: str
) -> None:
    """A timer that fires while the loop waits sees what is around the loop."""
    _send(recorded, channel, queue)
    seen = []
    for step in channel.consume(queue, inactivity_timeout=0.3):
        if step[0] is None:
            break
        channel.connection.call_later(0, lambda: seen.append(here().is_valid))
    channel.cancel()

    assert [False] == seen


def test_a_policy_runs_what_a_loop_fetched(recorded: Recorded, channel: BlockingChannel, queue: str) -> None:
    """Inside `for ... in channel.consume()` it knows the queue, and the message counts once."""
    _send(recorded, channel, queue)
    seen: list[str | None] = []
    for method, properties, body in channel.consume(queue):
        assert method is not None
        assert properties is not None
        assert body is not None
        waybill.Policy().run(
            channel, method, properties, body, lambda *_: seen.append(waybill.current().request_id)
        )
        break
    channel.cancel()

    assert ["r0"] == seen
    assert ["publish", "receive", "ack", "process"] == recorded.operations
    assert 1 == recorded.count("messaging.client.consumed.messages")
    channel.queue_delete(f"{queue}.parked")


def test_a_policy_by_name_is_refused_on_a_loop(channel: BlockingChannel, queue: str) -> None:
    """A loop cannot be put under a policy by its queue's name: it says to use `policy.run`."""
    with (
        recording(terms={queue: waybill.Policy().terms}),
        pytest.raises(InvalidPolicy, match=r"policy\.run"),
    ):
        channel.consume(queue)


def test_a_glob_skips_a_loop_and_says_so_once(
    channel: BlockingChannel, unique: Unique, caplog: pytest.LogCaptureFixture
) -> None:
    """One INFO line for the consumer, not one for each time that a program goes on with it."""
    caplog.set_level(logging.INFO, "otel_waybill")
    queue = unique("looped")
    channel.queue_declare(queue, exclusive=True)
    with recording(terms={"looped-*": waybill.Policy().terms}):
        for _ in range(3):
            for _ in channel.consume(queue, inactivity_timeout=0.01):
                break
        channel.cancel()

    assert 1 == len([line for line in caplog.messages if queue in line])


def test_an_ack_of_many_says_how_many(recorded: Recorded, channel: BlockingChannel, queue: str) -> None:
    """`multiple` covers what was fetched and not settled yet; an ack of one says nothing of a batch."""
    send_bare(channel, queue, 4)
    tags = [got[0].delivery_tag for got in (channel.basic_get(queue) for _ in range(4)) if got[0]]
    channel.basic_ack(tags[0])
    channel.basic_ack(tags[2], multiple=True)

    counts = [attributes(span).get("messaging.batch.message_count") for span in recorded.of("ack")]
    assert [None, 2] == counts
    channel.basic_ack(tags[3])


def test_a_second_ack_is_the_programs_own_mistake(
    recorded: Recorded, channel: BlockingChannel, queue: str
) -> None:
    """Without a policy nothing is held back, and the broker says what it says."""
    send_bare(channel, queue)
    method, _, _ = channel.basic_get(queue)
    assert method is not None
    channel.basic_ack(method.delivery_tag)
    channel.basic_ack(method.delivery_tag)

    with pytest.raises(ChannelClosedByBroker, match="unknown delivery tag"):
        channel.queue_declare(queue, passive=True)
    assert 2 == len(recorded.of("ack"))


def test_a_loop_that_outlives_the_instrumentation_falls_silent(amqp_url: str, unique: Unique) -> None:
    """After `uninstrument()` the generator hands over as pika does."""
    with opened(amqp_url) as channel:
        queue = declared(channel, unique)
        send_bare(channel, queue, 2)
        with recording() as recorded:
            loop = channel.consume(queue)
            next(loop)
        assert None is not next(loop)[0]
        assert not here().is_valid
        assert ["receive"] == recorded.operations


# ------------------------------------------------------------- P17 and P18


def test_a_channel_that_was_open_before_is_instrumented(amqp_url: str, unique: Unique) -> None:
    """The patches are on classes: nobody needs to open anything again."""
    with opened(amqp_url) as channel:
        queue = declared(channel, unique)
        with recording() as recorded:
            channel.basic_publish("", queue, b"")
            channel.basic_get(queue, auto_ack=True)

    assert ["publish", "receive"] == recorded.operations


def test_an_ack_from_a_worker_thread_belongs_to_its_message(
    recorded: Recorded, channel: BlockingChannel, queue: str
) -> None:
    """`add_callback_threadsafe` runs its callback in the context of the thread that asked."""
    _send(recorded, channel, queue)
    connection, settled = channel.connection, threading.Event()

    def settle(tag: int) -> None:
        channel.basic_ack(tag)
        settled.set()

    def handle(_: BlockingChannel, method: Basic.Deliver, __: BasicProperties, ___: bytes) -> None:
        def work() -> None:
            connection.add_callback_threadsafe(lambda: settle(method.delivery_tag))

        threading.Thread(target=copy_context().run, args=(work,)).start()

    channel.basic_consume(queue, handle)
    before = otel.get_current()
    while not settled.is_set():
        connection.process_data_events(time_limit=0.1)

    assert identity(recorded.one("process")) == parent(recorded.one("ack"))
    assert before is otel.get_current()


def test_a_thread_without_a_context_hands_nothing_on(recorded: Recorded, channel: BlockingChannel) -> None:
    """What is current around the connection's loop stays so for a callback that brings nothing."""
    seen = []

    def ask() -> None:
        channel.connection.add_callback_threadsafe(lambda: seen.append(here()))

    thread = threading.Thread(target=ask)
    with recorded.tracer.start_as_current_span("around") as around:
        thread.start()
        thread.join()
        while not seen:
            channel.connection.process_data_events(time_limit=0.1)

    assert [around.get_span_context()] == seen


@pytest.mark.usefixtures("recorded")
def test_a_callback_that_raises_still_leaves_its_context(channel: BlockingChannel) -> None:
    """Its exception is the program's, and nothing stays attached."""

    def fail() -> None:
        msg = "from the callback"
        raise ZeroDivisionError(msg)

    before = otel.get_current()
    token = otel.attach(baggage.set_baggage("color", "blue"))
    channel.connection.add_callback_threadsafe(fail)
    otel.detach(token)
    with pytest.raises(ZeroDivisionError):
        channel.connection.process_data_events(time_limit=1)

    assert before is otel.get_current()


# ----------------------------------------------------------------- suppression


def test_suppressed_means_as_if_uninstrumented(
    recorded: Recorded, channel: BlockingChannel, queue: str
) -> None:
    """No span, no header, no context in the body of a loop, and the same answers."""
    with suppress_instrumentation():
        channel.basic_publish("", queue, b"0")
        channel.basic_publish("", queue, b"1")
        method, properties, body = channel.basic_get(queue)
        for _ in channel.consume(queue):
            assert not here().is_valid
            break
        channel.cancel()
        assert method is not None
        channel.basic_ack(method.delivery_tag)

    assert properties is not None
    assert b"0" == body
    assert not properties.headers
    assert [] == recorded.operations


def test_our_own_calls_are_not_traced(recorded: Recorded, channel: BlockingChannel, queue: str) -> None:
    """Inside `passthrough` every door is pika's own."""
    with passthrough():
        channel.basic_publish("", queue, b"")
        for _ in channel.consume(queue, auto_ack=True):
            break
        channel.cancel()
        channel.basic_get(queue)

    assert [] == recorded.operations


def test_generators_stay_generators(channel: BlockingChannel, queue: str) -> None:
    """A program may close, send to and throw into what `consume` returns, and pika checks when it starts."""
    with recording():
        loop = channel.consume(queue, inactivity_timeout=0.05)
        assert (None, None, None) == next(loop)
        assert (None, None, None) == loop.send(None)
        channel.cancel()
        with pytest.raises(StopIteration):
            next(loop)
        channel.close()
        late = channel.consume(queue)
        with pytest.raises(pika.exceptions.ChannelWrongStateError):
            next(late)
