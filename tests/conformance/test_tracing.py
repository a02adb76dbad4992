"""Telemetry of publish, callback and settlement, in a program that has no policy."""

from collections.abc import Callable, Sequence

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, StatusCode, TraceState
from opentelemetry.util.types import Attributes

import otel_waybill as waybill
from conformance.broker import Broker
from conformance.clients.registry import clients_that
from conformance.protocol import Client, Received, idle, publish, raised, until
from conformance.telemetry import Telemetry, facts, identity, links, parent


async def acknowledge(message: Received) -> None:
    """Handle a message by acknowledging it."""
    await message.ack()


class Witness(Sampler):
    """Samples everything and remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: dict[str, dict[str, object]] = {}

    def should_sample(  # noqa: PLR0913, PLR0917 - the interface of samplers
        self,
        parent_context: Context | None,  # noqa: ARG002
        trace_id: int,  # noqa: ARG002
        name: str,
        kind: SpanKind | None = None,  # noqa: ARG002
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,  # noqa: ARG002
        trace_state: TraceState | None = None,  # noqa: ARG002
    ) -> SamplingResult:
        """Sample the span."""
        self.shown[name] = dict(attributes or {})
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)

    def get_description(self) -> str:
        """Return its name."""
        return "Witness"


def test_publish_callback_and_ack_are_one_trace(client: Client, traced: Telemetry, queue: str) -> None:
    """A message makes one publish, one process and one ack span, and they are one trace."""
    client.consume(queue, client.native(acknowledge))
    publish(client, queue)
    until(client, lambda: len(traced.spans()) >= 3)
    idle(client)

    sent, handled, settled = traced.spans()
    assert (f"publish {queue}", SpanKind.PRODUCER, None) == (sent.name, sent.kind, parent(sent))
    assert (f"process {queue}", SpanKind.CONSUMER) == (handled.name, handled.kind)
    assert identity(sent).span_id == parent(handled)
    assert [identity(sent).span_id] == links(handled)
    assert (f"ack {queue}", SpanKind.CLIENT) == (settled.name, settled.kind)
    assert identity(handled).span_id == parent(settled)
    assert 1 == len(traced.traces())
    assert {StatusCode.UNSET} == {span.status.status_code for span in traced.spans()}


def test_attributes_are_those_of_the_conventions_and_samplers_see_them(
    client: Client, queue: str, broker: Broker
) -> None:
    """Each span carries what the semantic conventions ask for, from its very start."""
    witness = Witness()
    traced = Telemetry(witness).instrument()
    client.consume(queue, client.native(acknowledge))
    publish(client, queue, message_id="m-1", correlation_id="c-1")
    until(client, lambda: len(traced.spans()) >= 3)

    common = {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": queue,
        "server.address": broker.host,
        "server.port": broker.port,
    }
    message = {
        "messaging.rabbitmq.destination.routing_key": queue,
        "messaging.message.id": "m-1",
        "messaging.message.conversation_id": "c-1",
    }
    tag = {"messaging.rabbitmq.message.delivery_tag": 1}
    expected = {
        f"publish {queue}": common | message | _operation("publish", "send"),
        f"process {queue}": common | message | tag | _operation("process", "process"),
        f"ack {queue}": common | tag | _operation("ack", "settle"),
    }
    assert expected == {span.name: facts(span) for span in traced.spans()}
    assert expected == witness.shown


def test_destination_names_exchange_routing_key_and_queue(
    client: Client, traced: Telemetry, queue: str, broker: Broker, unique: Callable[[str], str]
) -> None:
    """Through an exchange, spans say which one, with which routing key, and from which queue."""
    exchange = unique("orders")
    broker.bind(queue, exchange, "orders.*")
    client.consume(queue, client.native(acknowledge))
    publish(client, "orders.new", exchange=exchange)
    until(client, lambda: len(traced.spans()) >= 3)

    whole = f"{exchange}:orders.new:{queue}"
    assert [f"publish {exchange}:orders.new", f"process {whole}", f"ack {whole}"] == [
        span.name for span in traced.spans()
    ]
    assert [f"{exchange}:orders.new", whole, whole] == [
        facts(span)["messaging.destination.name"] for span in traced.spans()
    ]


def test_generated_queue_names_stay_out_of_span_names(client: Client, traced: Telemetry) -> None:
    """A queue that nobody named makes no new span name, and is marked as anonymous."""
    name = client.private_queue()
    client.consume(name, client.native(acknowledge))
    publish(client, name)
    until(client, lambda: len(traced.spans()) >= 3)

    assert ["publish", "process", "ack"] == [span.name for span in traced.spans()]
    assert [True, True, None] == [
        facts(span).get("messaging.destination.anonymous") for span in traced.spans()
    ]


@pytest.mark.parametrize("verb", ["nack", "reject"])
def test_refusals_have_a_span(client: Client, traced: Telemetry, queue: str, verb: str) -> None:
    """A nack or a reject is seen in the trace like an ack."""

    async def refuse(message: Received) -> None:
        await (message.nack(requeue=False) if verb == "nack" else message.reject())

    client.consume(queue, client.native(refuse))
    publish(client, queue)
    until(client, lambda: len(traced.spans()) >= 3)

    settled = traced.only(verb)
    assert (f"{verb} {queue}", SpanKind.CLIENT) == (settled.name, settled.kind)
    assert _operation(verb, "settle").items() <= facts(settled).items()


@clients_that(lambda features: features.surfaces)
def test_exception_of_a_handler_reaches_the_program_unchanged(
    client: Client, traced: Telemetry, queue: str, broker: Broker
) -> None:
    """Without a policy what a handler raises is the program's own business, and marks its span."""
    error = LookupError("no such order")

    async def fail(_: Received) -> None:
        raise error

    client.consume(queue, client.native(fail))
    publish(client, queue)
    until(client, lambda: client.raised)

    handled = traced.only("process")
    assert (StatusCode.ERROR, "no such order") == (handled.status.status_code, handled.status.description)
    assert "LookupError" == facts(handled)["error.type"]
    assert [] == traced.spans("ack")
    client.close()
    assert {error} == set(raised(client)), "which aio-pika 9 reports twice"
    assert 1 == len(broker.take_back(queue, 1)), "it was not acknowledged"


def test_unroutable_publish_is_an_error(
    client: Client, traced: Telemetry, unique: Callable[[str], str]
) -> None:
    """A publish that the broker could not route raises as ever, and its span says so."""
    with pytest.raises(client.unroutable) as caught:
        publish(client, unique("nowhere"))

    sent = traced.only("publish")
    assert StatusCode.ERROR is sent.status.status_code
    assert type(caught.value).__name__ == facts(sent)["error.type"]


@clients_that(lambda features: features.tells_returns)
def test_publish_that_came_back_silently_is_an_error(
    client: Client, traced: Telemetry, unique: Callable[[str], str]
) -> None:
    """Where the client merely returns that nobody took the message, its span is an error all the same."""
    client.send_unasked(unique("nowhere"))

    sent = traced.only("publish")
    assert StatusCode.ERROR is sent.status.status_code
    assert "error.type" in facts(sent)


def test_publish_joins_the_trace_of_the_program(client: Client, traced: Telemetry, queue: str) -> None:
    """What is published inside a span of the program is part of its trace."""
    client.consume(queue, client.native(acknowledge))
    with traced.tracer().start_as_current_span("program"):
        publish(client, queue)
    until(client, lambda: len(traced.spans()) >= 4)

    assert identity(traced.only("program")).span_id == parent(traced.only("publish"))
    assert 1 == len(traced.traces())


@clients_that(lambda features: features.ambient)
def test_span_around_the_consuming_loop_is_linked(client: Client, traced: Telemetry, queue: str) -> None:
    """A span around the loop does not take messages out of their traces; it is linked."""
    client.consume(queue, client.native(acknowledge))
    publish(client, queue)
    with traced.tracer().start_as_current_span("loop"):
        until(client, lambda: traced.spans("process"))

    sent, loop, handled = (identity(traced.only(name)).span_id for name in ("publish", "loop", "process"))
    assert sent == parent(traced.only("process"))
    assert [sent, loop] == links(traced.only("process"))
    assert handled == parent(traced.only("ack"))


def test_span_that_was_current_when_the_channel_was_opened_means_nothing(
    client: Client, traced: Telemetry, queue: str, broker: Broker
) -> None:
    """A message without a trace starts one, whatever was current when consuming started."""
    current = []

    async def handle(message: Received) -> None:
        current.append(trace.get_current_span().get_span_context().trace_id)
        await message.ack()

    with traced.tracer().start_as_current_span("startup"):
        client.open()
        client.consume(queue, client.native(handle))
    broker.publish(queue)
    until(client, lambda: traced.spans("process"))

    handled = traced.only("process")
    assert (None, []) == (parent(handled), links(handled))
    assert [identity(handled).trace_id] == current
    assert identity(traced.only("startup")).trace_id != identity(handled).trace_id


def test_baggage_passes_and_does_not_stay(client: Client, traced: Telemetry, queue: str) -> None:
    """Baggage reaches the handler of its message, and of no other."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append(baggage.get_baggage("tenant"))
        await message.ack()

    client.consume(queue, client.native(handle))
    publish(client, queue)
    _within(Context(), "tenant", "acme", lambda: publish(client, queue))
    publish(client, queue)
    until(client, lambda: len(traced.spans("ack")) == 3)

    assert [None, "acme", None] == seen


def test_request_id_reaches_the_handler(client: Client, traced: Telemetry, queue: str) -> None:
    """The id of a request is known wherever it is worked on."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append(waybill.current())
        await message.ack()

    client.consume(queue, client.native(handle))
    with waybill.request(id="123456"):
        publish(client, queue)
    publish(client, queue)
    until(client, lambda: len(traced.spans("ack")) == 2)

    assert ["123456", None] == [each.request_id for each in seen]
    assert [(1, 0, None)] * 2 == [(each.attempt, each.retries, each.deadline) for each in seen]


def test_messages_of_a_handler_continue_the_trace(
    client: Client, traced: Telemetry, queues: Callable[[], str]
) -> None:
    """What a handler publishes, and what is done about that, is the same trace."""
    first, second = queues(), queues()

    async def pass_on(message: Received) -> None:
        await message.publish(second, message.body)
        await message.ack()

    client.consume(first, client.native(pass_on))
    client.consume(second, client.native(acknowledge))
    with waybill.request(id="123456"):
        publish(client, first)
    until(client, lambda: len(traced.spans()) >= 6)
    idle(client)

    assert 6 == len(traced.spans())
    assert 1 == len(traced.traces())
    assert identity(traced.only(f"process {first}")).span_id == parent(traced.only(f"publish {second}"))
    assert identity(traced.only(f"publish {second}")).span_id == parent(traced.only(f"process {second}"))


def test_trace_that_is_not_sampled_passes_all_the_same(client: Client, queue: str) -> None:
    """Whoever comes next must know that this trace is not sampled."""
    Telemetry(ALWAYS_OFF).instrument()
    seen = []

    async def handle(message: Received) -> None:
        seen.append((message.headers.get("traceparent"), trace.get_current_span().get_span_context()))
        await message.ack()

    client.consume(queue, client.native(handle))
    publish(client, queue)
    until(client, lambda: seen)

    ((header, current),) = seen
    assert trace.format_trace_id(current.trace_id) in str(header)
    assert not current.trace_flags.sampled


def test_suppressed_instrumentation_is_as_none(client: Client, traced: Telemetry, queue: str) -> None:
    """Where a program suppresses instrumentation there are no spans and no headers, and all works."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append((dict(message.headers), trace.get_current_span().get_span_context().is_valid))
        await message.ack()

    with suppress_instrumentation():
        client.open()
        client.consume(queue, client.native(handle))
        publish(client, queue, headers={"tenant": "acme"})
        publish(client, queue)
        until(client, lambda: len(seen) == 2)
        client.close()

    assert [({"tenant": "acme"}, False), ({}, False)] == seen
    assert [] == traced.spans()


def test_uninstrument_restores_and_silences(client: Client, telemetry: Telemetry, queue: str) -> None:
    """Afterwards every method is the identical object again, and open channels make no more spans."""
    before = [vars(owner)[name] for owner, name in client.public]
    telemetry.instrument()
    assert not any(vars(owner)[name] is old for (owner, name), old in zip(client.public, before, strict=True))
    seen = []

    async def handle(message: Received) -> None:
        seen.append(message.headers)
        await message.ack()

    client.consume(queue, client.native(handle))
    publish(client, queue)
    until(client, lambda: len(telemetry.spans()) == 3)
    waybill.uninstrument()
    publish(client, queue)
    until(client, lambda: len(seen) == 2)
    idle(client)

    assert all(vars(owner)[name] is old for (owner, name), old in zip(client.public, before, strict=True))
    assert 3 == len(telemetry.spans())
    assert {} == seen[1]


def test_instrumenting_twice_is_once(
    client: Client, telemetry: Telemetry, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A second call changes nothing: one publish, one span."""
    telemetry.instrument()
    telemetry.instrument()
    client.consume(queue, client.native(acknowledge))
    publish(client, queue)
    until(client, lambda: len(telemetry.spans()) >= 3)
    idle(client)

    assert 3 == len(telemetry.spans())
    assert [] == [record for record in caplog.records if record.name.startswith("otel_waybill")]


def test_settle_spans_can_be_switched_off(client: Client, telemetry: Telemetry, queue: str) -> None:
    """Programs with very many messages can do without a span for each ack."""
    telemetry.instrument(settings=waybill.Settings(settle_spans=False))
    client.consume(queue, client.native(acknowledge))
    publish(client, queue)
    until(client, lambda: len(telemetry.spans()) >= 2)
    idle(client)

    assert [f"publish {queue}", f"process {queue}"] == [span.name for span in telemetry.spans()]


def _operation(name: str, kind: str) -> dict[str, object]:
    return {"messaging.operation.name": name, "messaging.operation.type": kind}


def _within(context: Context, name: str, value: str, call: Callable[[], None]) -> None:
    token = otel.attach(baggage.set_baggage(name, value, context))
    try:
        call()
    finally:
        otel.detach(token)
