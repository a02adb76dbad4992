"""Deadlines: what has expired is not started, what runs can be stopped, what is sent on inherits."""

import time
from collections.abc import Callable

import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind

import otel_waybill as waybill
from conformance.broker import Broker, wait_for, wait_for_parked
from conformance.clients.registry import clients_that
from conformance.protocol import Client, Properties, Received, publish, until
from conformance.telemetry import Telemetry, facts
from conformance.ways import Way
from otel_waybill import Policy, Retry, names
from otel_waybill.core.events import ClockSkewed, Event
from otel_waybill.resilience import hub


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
    assert 30 < remaining <= 31  # a tolerance of 1 s for clocks that differ, which the child does not get
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
    broker.publish(queue, properties=Properties(headers=due(1.5)))
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
    assert 0 < remaining <= (61 if guarded else 86_401)


@pytest.mark.parametrize("guarded", [False, True], ids=["bare", "policy"])
def test_clock_that_is_ahead_gives_no_time(
    client: Client, traced: Telemetry, queue: str, broker: Broker, *, guarded: bool
) -> None:
    """What was left for the sender is left here, however far ahead its clock is; far off it tells nothing."""
    seen = []
    skews: list[int] = []

    async def handle(message: Received) -> None:
        seen.append(waybill.remaining())
        await message.ack()

    def note(event: Event) -> None:
        if isinstance(event, ClockSkewed):
            skews.append(round(event.seconds))

    hub.add(note)
    callback = client.native(handle)
    client.consume(queue, Policy().wrap(callback) if guarded else callback)
    for ahead in (60, 6000):
        broker.publish(
            queue, properties=Properties(headers=due(20 + ahead) | {names.HEADER_TIMEOUT: "20000"})
        )
    until(client, lambda: len(traced.spans("process")) == 2)
    hub.remove(note)

    remaining, unknown = seen
    assert remaining is not None
    assert 20 < remaining <= 21
    assert unknown is None
    assert [60, 6000] == skews


def test_handlers_have_the_tolerance_and_their_children_do_not(
    client: Client, traced: Telemetry, queues: Callable[[], str], broker: Broker
) -> None:
    """Within the tolerance a handler goes on as if there were time; what it sends carries what came."""
    source, target = queues(), queues()
    sent = due(-5)

    async def pass_on(message: Received) -> None:
        with waybill.request(id="123456"):
            waybill.check()
            await message.publish(target, message.body)

    client.consume(source, Policy(skew_tolerance=60, refuse_publish=True).wrap(client.native(pass_on)))
    broker.publish(source, properties=Properties(headers=sent))
    until(client, lambda: traced.spans("process"))

    (child,) = wait_for(client, broker, target)
    assert sent[names.HEADER_DEADLINE] == child.headers[names.HEADER_DEADLINE]


def test_ignored_deadline_is_nobodys(
    client: Client, telemetry: Telemetry, queues: Callable[[], str], any_way: Way, broker: Broker
) -> None:
    """Under a policy that ignores deadlines, one is neither enforced nor seen nor passed on."""
    source, target = queues(), queues()
    seen = []

    async def pass_on(message: Received) -> None:
        seen.append((waybill.remaining(), waybill.current().request_id))
        await message.publish(target, message.body)

    any_way.consume(source, pass_on, Policy(settle="return", deadline="ignore"))
    stale = f"waybill.deadline={round(time.time() * 1000) - 5000}"
    headers = due(-5) | {names.HEADER_REQUEST_ID: "123456", names.HEADER_BAGGAGE: stale}
    broker.publish(source, properties=Properties(headers=headers))

    (child,) = wait_for(client, broker, target)
    assert [(None, "123456")] == seen
    assert not any("deadline" in f"{name} {value}" for name, value in child.headers.items())
    if any_way.traced:
        assert "waybill.deadline_remaining_ms" not in facts(telemetry.processes()[0])


def test_strict_policy_refuses_to_publish_too_late(
    client: Client, telemetry: Telemetry, queues: Callable[[], str], way: Way, broker: Broker
) -> None:
    """With refuse_publish a handler sends nothing after its deadline, as in a request block."""
    source, target = queues(), queues()

    async def dawdle(message: Received) -> None:
        while (waybill.remaining() or 0) > 0:
            time.sleep(0.01)  # noqa: ASYNC251 - code that nobody can stop
        await message.publish(target, message.body)

    way.consume(source, dawdle, Policy(settle="return", skew_tolerance=0, refuse_publish=True))
    broker.publish(source, properties=Properties(headers=due(1.5)))
    (taken,) = wait_for_parked(client, broker, source)

    assert "deadline" == taken.headers[names.HEADER_REASON]
    assert "DeadlineExceeded" == taken.headers[names.HEADER_EXCEPTION_TYPE]
    assert [] == broker.take(target)
    assert 1 == len(telemetry.publishes())  # the copy that is parked


def test_messages_expire_with_their_deadline_where_that_is_asked_for(
    client: Client, traced: Telemetry, queue: str, broker: Broker
) -> None:
    """In such a block a message gets what is left as its expiration, its own if that is shorter."""
    plain = client.message(b"", Properties())
    with waybill.deadline(30):
        client.send(plain, queue)
        with waybill.request(expire=True):
            client.send(plain, queue)
            publish(client, queue, expiration=60.0)
            publish(client, queue, expiration=10.0)
            with waybill.detached():
                client.send(plain, queue)
            with suppress_instrumentation():
                client.send(plain, queue)
    with waybill.request(expire=True):
        client.send(plain, queue)

    taken = [each.properties.expiration for each in broker.take(queue)]
    assert [None, 10.0, None, None] == [taken[0], taken[3], taken[4], taken[6]]
    assert all(left is not None and 29 < left <= 30 for left in (taken[1], taken[2], taken[5]))
    assert 6 == len(traced.publishes())


def test_copies_of_messages_that_expire_do_not(
    client: Client, queues: Callable[[], str], way: Way, broker: Broker
) -> None:
    """A handler can let what it sends expire; what is parked of it stays, and remembers."""
    source, target = queues(), queues()

    async def pass_on(message: Received) -> None:
        if message.body == b"first":
            with waybill.request(expire=True):
                await message.publish(target, b"second")
        raise ValueError

    policy = Policy(settle="return")
    way.consume(source, pass_on, policy)
    broker.publish(source, b"first", properties=Properties(headers=due(30)))
    (child,) = wait_for(client, broker, target)
    (parked,) = wait_for_parked(client, broker, source)
    assert child.properties.expiration is not None
    assert parked.properties.expiration is None

    broker.publish(source, b"second", properties=child.properties)
    (parked,) = wait_for_parked(client, broker, source)
    assert parked.properties.expiration is None
    assert str(round(child.properties.expiration * 1000)) == parked.headers[names.HEADER_ORIGIN_EXPIRATION]


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
    assert 30 < remaining <= 31
    assert "123456" == request_id
    assert 1 == len([span for span in traced.spans() if span.kind is SpanKind.CONSUMER])
