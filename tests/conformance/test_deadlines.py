"""Deadlines: what has expired is not started, what runs can be stopped, what is sent on inherits."""

import time
from collections.abc import Callable

import pytest
from opentelemetry.trace import SpanKind

import otel_waybill as waybill
from conformance.broker import Broker, wait_for, wait_for_parked
from conformance.clients.registry import clients_that
from conformance.protocol import Client, Properties, Received, publish, until
from conformance.telemetry import Telemetry, facts
from conformance.ways import Way
from otel_waybill import Policy, Retry, names


def due(seconds: float) -> dict[str, object]:
    """Return the headers of a message whose deadline is so far away, or past."""
    timeout = max(0, round(seconds * 1000))
    deadline = round((time.time() + seconds) * 1000)
    return {names.HEADER_DEADLINE: str(deadline), names.HEADER_TIMEOUT: str(timeout)}


def test_expired_message_is_parked_and_never_handled(
    client: Client, telemetry: Telemetry, queue: str, any_way: Way, broker: Broker
) -> None:
    """A delivery whose deadline has passed is parked with that reason, and the callback is not called."""
    calls = []

    async def handle(message: Received) -> None:
        calls.append(message.body)

    any_way.consume(queue, handle, Policy(settle="return"))
    broker.publish(queue, b"late", properties=Properties(headers=due(-5)))
    (taken,) = wait_for_parked(client, broker, queue)

    assert [] == calls
    assert (b"late", "deadline") == (taken.body, taken.headers[names.HEADER_REASON])
    if any_way.traced:
        refused = telemetry.only("process")
        assert {"waybill.outcome": "parked", "waybill.reason": "deadline"}.items() <= facts(refused).items()
        assert 1 == len(telemetry.publishes())


def test_without_a_policy_a_deadline_is_only_news(
    client: Client, traced: Telemetry, queue: str, broker: Broker
) -> None:
    """Instrumenting alone never keeps a message from its handler."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append(waybill.remaining())
        await message.ack()

    client.consume(queue, client.native(handle))
    broker.publish(queue, properties=Properties(headers=due(-5)))
    until(client, lambda: traced.spans("ack"))

    (remaining,) = seen
    assert remaining is not None
    assert remaining < 0


def test_children_inherit_the_deadline(
    client: Client, traced: Telemetry, queues: Callable[[], str], broker: Broker
) -> None:
    """What a handler publishes has the same deadline, and less time left."""
    source, target = queues(), queues()
    seen = []

    async def pass_on(message: Received) -> None:
        waybill.check()
        seen.append((dict(message.headers), waybill.remaining()))
        await message.pause(0.02)
        await message.publish(target, message.body)
        await message.ack()

    client.consume(source, client.native(pass_on))
    with waybill.deadline(30):
        publish(client, source)
    until(client, lambda: traced.spans("process"))

    ((parent, remaining),) = seen
    (child,) = wait_for(client, broker, target)
    assert parent[names.HEADER_DEADLINE] == child.headers[names.HEADER_DEADLINE]
    assert (
        0 < int(str(child.headers[names.HEADER_TIMEOUT])) < int(str(parent[names.HEADER_TIMEOUT])) <= 30_000
    )
    assert remaining is not None
    assert 29 < remaining <= 30
    assert waybill.remaining() is None


def test_expired_request_publishes_nothing(
    client: Client, traced: Telemetry, queue: str, broker: Broker
) -> None:
    """Inside a request block whose deadline has passed, publishing raises and nothing is sent."""
    with waybill.request(deadline=0.01):
        while (waybill.remaining() or 0) > 0:
            client.pump()
        with pytest.raises(waybill.DeadlineExceeded) as caught:
            publish(client, queue)
        with pytest.raises(waybill.DeadlineExceeded):
            waybill.check()

    assert caught.value.overdue >= 0
    assert [] == broker.take(queue)
    assert [] == traced.spans()


def test_handlers_may_publish_after_an_inherited_deadline(
    client: Client, traced: Telemetry, queues: Callable[[], str], broker: Broker
) -> None:
    """What is half done can be finished: a deadline that came with the message refuses no publish."""
    source, target = queues(), queues()

    async def pass_on(message: Received) -> None:
        with pytest.raises(waybill.DeadlineExceeded):
            waybill.check()
        await message.publish(target, message.body)
        await message.ack()

    client.consume(source, client.native(pass_on))
    broker.publish(source, properties=Properties(headers=due(-5)))
    until(client, lambda: traced.spans("process"))

    assert 1 == len(wait_for(client, broker, target))


def test_detached_messages_have_no_deadline(
    client: Client, traced: Telemetry, queue: str, broker: Broker
) -> None:
    """A fact that outlives its request has no deadline and no limit, but its trace and its request id."""
    with (
        traced.tracer().start_as_current_span("program"),
        waybill.request(id="123456", deadline=30, retry_limit=3),
        waybill.detached(),
    ):
        publish(client, queue)

    (taken,) = broker.take(queue)
    assert {"traceparent", "baggage", names.HEADER_REQUEST_ID} == taken.headers.keys()
    assert "waybill.request-id=123456" == taken.headers["baggage"]
    assert 1 == len(traced.traces())


def test_requests_only_tighten(client: Client, traced: Telemetry, queue: str, broker: Broker) -> None:
    """An inner block cannot take more time, or more retries, than the outer one has."""
    with waybill.request(deadline=10, retry_limit=2):
        outer = waybill.current()
        with waybill.request(deadline=60, retry_limit=5):
            publish(client, queue)

    (taken,) = broker.take(queue)
    assert outer.deadline is not None
    assert str(round(outer.deadline * 1000)) == taken.headers[names.HEADER_DEADLINE]
    assert "2" == taken.headers[names.HEADER_RETRY_LIMIT]
    assert 1 == len(traced.spans())


@clients_that(lambda features: features.stops)
def test_running_handler_is_stopped_at_its_deadline(
    client: Client, telemetry: Telemetry, queue: str, any_way: Way, broker: Broker
) -> None:
    """Where code can be stopped, a handler stops at the deadline and its message is parked."""
    stopped = []

    async def handle(message: Received) -> None:
        try:
            await message.pause(30)
        except BaseException as error:
            stopped.append(type(error).__name__)
            raise

    policy = Policy(settle="return", retry=Retry(attempts=5), skew_tolerance=0)
    any_way.consume(queue, handle, policy)
    broker.publish(queue, properties=Properties(headers=due(0.3)))
    (taken,) = wait_for_parked(client, broker, queue)

    assert ["CancelledError"] == stopped
    assert "deadline" == taken.headers[names.HEADER_REASON]
    assert "DeadlineExceeded" == taken.headers[names.HEADER_EXCEPTION_TYPE]
    if any_way.traced:
        assert "DeadlineExceeded" == facts(telemetry.only("process"))["error.type"]


def test_running_handler_can_ask_whether_to_go_on(
    client: Client, queue: str, any_way: Way, broker: Broker
) -> None:
    """A handler that checks stops soon after its deadline, and its message is parked."""

    async def handle(message: Received) -> None:
        while True:
            waybill.check()
            await message.pause(0.01)

    policy = Policy(settle="return", retry=Retry(attempts=5), skew_tolerance=0)
    any_way.consume(queue, handle, policy)
    broker.publish(queue, properties=Properties(headers=due(0.2)))
    (taken,) = wait_for_parked(client, broker, queue)

    assert "deadline" == taken.headers[names.HEADER_REASON]


def test_tolerance_covers_clocks_that_differ(
    client: Client, telemetry: Telemetry, queue: str, way: Way, broker: Broker
) -> None:
    """A deadline that has only just passed may be the clock's fault: the message is handled."""
    seen = []

    async def handle(_: Received) -> None:
        seen.append(waybill.remaining())

    way.consume(queue, handle, Policy(settle="return", skew_tolerance=30))
    broker.publish(queue, properties=Properties(headers=due(-5)))
    until(client, lambda: telemetry.spans("process"))

    assert 1 == len(seen)


@pytest.mark.parametrize("guarded", [False, True], ids=["bare", "policy"])
def test_far_deadlines_are_shortened(
    client: Client, traced: Telemetry, queue: str, broker: Broker, *, guarded: bool
) -> None:
    """A deadline beyond all reason is brought down to the largest that is allowed."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append(waybill.remaining())
        await message.ack()

    callback = client.native(handle)
    client.consume(queue, Policy(max_deadline=60).wrap(callback) if guarded else callback)
    far = {names.HEADER_DEADLINE: "253402300799000"}  # the end of the year 9999
    broker.publish(queue, properties=Properties(headers=far))
    until(client, lambda: traced.spans("process"))

    (remaining,) = seen
    assert remaining is not None
    assert 0 < remaining <= (61 if guarded else 86_400)


def test_deadline_crosses_transports_in_baggage(
    client: Client, traced: Telemetry, queue: str, broker: Broker
) -> None:
    """A deadline that came over HTTP, in baggage alone, is known like one in a header."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append((waybill.remaining(), waybill.current().request_id))
        await message.ack()

    client.consume(queue, client.native(handle))
    deadline = round((time.time() + 30) * 1000)
    carried = f"waybill.deadline={deadline},waybill.request-id=123456"
    broker.publish(queue, properties=Properties(headers={"baggage": carried}))
    until(client, lambda: traced.spans("process"))

    ((remaining, request_id),) = seen
    assert remaining is not None
    assert 29 < remaining <= 30
    assert "123456" == request_id
    assert 1 == len([span for span in traced.spans() if span.kind is SpanKind.CONSUMER])
