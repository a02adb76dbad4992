"""Retries: a failed message comes back by the broker, with growing gaps, or is parked with its reason."""

import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise

import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation

import otel_waybill as waybill
from conformance.broker import PARKED, Broker, foreign, wait_for, wait_for_parked
from conformance.protocol import Client, Properties, Received, idle, publish, until
from conformance.telemetry import Telemetry, facts, identity, links, parent
from conformance.ways import Way
from otel_waybill import Backoff, Policy, Retry, names

EARLY = 0.02
"""Seconds for which the clocks of broker and test may disagree; the broker is never early."""
QUICK = Retry(attempts=4, backoff=Backoff(first=0.2, ceiling=0.5, jitter="none"))
"""Waits of 250 and 500 ms, and then 500 ms."""


class Refused(Exception):  # noqa: N818 - what a payment is
    """Some failure of a handler."""


def test_failed_message_comes_back_with_growing_gaps(client: Client, queue: str, any_way: Way) -> None:
    """A handler that fails twice gets its message three times, later each time, and then it is handled."""
    seen: list[tuple[int, int, str | None]] = []
    times: list[float] = []

    async def handle(_: Received) -> None:
        times.append(time.monotonic())
        current = waybill.current()
        seen.append((current.attempt, current.retries, current.request_id))
        if len(seen) < 3:
            raise Refused

    any_way.consume(queue, handle, Policy(settle="return", retry=QUICK))
    with waybill.request(id="123456"):
        publish(client, queue)
    until(client, lambda: len(seen) == 3)
    idle(client)

    name = "123456" if any_way.traced else None
    assert [(1, 0, name), (2, 1, name), (3, 2, name)] == seen
    first, second = (later - earlier for earlier, later in pairwise(times))
    assert 0.25 - EARLY <= first
    assert 0.5 - EARLY <= second


def test_attempts_are_one_trace(client: Client, telemetry: Telemetry, queue: str, way: Way) -> None:
    """Each attempt is a child of the publish to the ladder, and linked to where it all began."""
    calls = []

    async def handle(_: Received) -> None:
        calls.append(1)
        if len(calls) < 3:
            raise Refused

    way.consume(queue, handle, Policy(settle="return", retry=QUICK))
    publish(client, queue)
    until(client, lambda: len(telemetry.processes()) == 3)
    idle(client)

    sent, first_wait, second_wait = telemetry.publishes()
    one, two, three = telemetry.processes()
    assert 1 == len(telemetry.traces())
    assert 9 == len(telemetry.spans()), "one publish, two copies, three attempts, three acks"
    assert [
        f"publish {queue}",
        f"publish waybill.delay.v1.250:{queue}",
        f"publish waybill.delay.v1.500:{queue}",
    ] == [span.name for span in telemetry.publishes()]
    assert [250, 500] == [facts(span)["waybill.delay_ms"] for span in (first_wait, second_wait)]
    assert {f"process {queue}"} == {span.name for span in telemetry.processes()}
    assert [1, 2, 3] == [facts(span)["waybill.attempt"] for span in telemetry.processes()]
    assert ["retried", "retried", "handled"] == [
        facts(span)["waybill.outcome"] for span in telemetry.processes()
    ]
    assert ["Refused", "Refused", None] == [facts(span).get("error.type") for span in telemetry.processes()]
    ids = [identity(span).span_id for span in (sent, one, first_wait, two, second_wait)]
    assert ids == [parent(span) for span in (one, first_wait, two, second_wait, three)]
    assert [ids[0]] == links(one)
    assert [ids[0], ids[1]] == links(two)
    assert [ids[0], ids[3]] == links(three)
    settled = telemetry.spans("ack")
    assert [identity(span).span_id for span in (one, two, three)] == [parent(span) for span in settled]


def test_used_up_message_is_parked_as_it_was(
    client: Client, telemetry: Telemetry, queue: str, any_way: Way, broker: Broker
) -> None:
    """After its last attempt a message waits in parking, whole, with what went wrong and where."""
    calls = []

    async def fail(_: Received) -> None:
        calls.append(1)
        msg = "card declined"
        raise Refused(msg)

    before = round(time.time() * 1000)
    retry = Retry(attempts=2, backoff=Backoff(first=0.2, ceiling=0.2, jitter="none"))
    any_way.consume(queue, fail, Policy(settle="return", retry=retry))
    sent = everything(broker.user)
    broker.publish(queue, b"order", properties=sent)
    (taken,) = wait_for_parked(client, broker, queue)

    assert 2 == len(calls)
    assert b"order" == taken.body
    body = {name: value for name, value in asdict(taken.properties).items() if name not in _KEPT_APART}
    assert body == {name: value for name, value in asdict(sent).items() if name not in _KEPT_APART}
    headers = dict(foreign(taken.headers))
    consumer = headers.pop(names.HEADER_CONSUMER, None)
    assert (consumer is None) == (any_way.name == "run" and client.features.fetches)
    times = int(str(headers.pop(names.HEADER_FIRST_FAILED_AT))), int(str(headers.pop(names.HEADER_FAILED_AT)))
    assert before <= times[0] < times[1] <= round(time.time() * 1000)
    creation = headers.pop(names.HEADER_CREATION, None), headers.pop(names.HEADER_PREVIOUS, None)
    assert any_way.traced == (creation[1] is not None)
    assert {
        "tenant": "acme",
        names.HEADER_REASON: "max-attempts",
        names.HEADER_EXCEPTION_TYPE: "Refused",
        names.HEADER_EXCEPTION_MESSAGE: "card declined",
        names.HEADER_ATTEMPT: "2",
        names.HEADER_RETRIES: "1",
        names.HEADER_ID: "m-1",
        names.HEADER_QUEUE: queue,
        names.HEADER_ORIGIN_EXCHANGE: "",
        names.HEADER_ORIGIN_ROUTING_KEY: queue,
        names.HEADER_ORIGIN_USER_ID: broker.user,
        names.HEADER_ORIGIN_EXPIRATION: "60000",
    } == headers
    if any_way.traced:
        last = telemetry.processes()[-1]
        assert {"waybill.outcome": "parked", "waybill.reason": "max-attempts"}.items() <= facts(last).items()


def test_without_retries_the_first_failure_parks(
    client: Client, queue: str, any_way: Way, broker: Broker
) -> None:
    """A policy that says nothing of retries tries once."""
    calls = []

    async def fail(_: Received) -> None:
        calls.append(1)
        raise Refused

    any_way.consume(queue, fail, Policy(settle="return"))
    publish(client, queue, b"order")
    (taken,) = wait_for_parked(client, broker, queue)

    assert 1 == len(calls)
    assert (b"order", "max-attempts") == (taken.body, taken.headers[names.HEADER_REASON])


@pytest.mark.parametrize("named", [True, False], ids=["message id", "no message id"])
def test_handler_sees_the_original_delivery_each_time(  # noqa: PLR0913 - each is a fixture
    client: Client,
    queue: str,
    way: Way,
    broker: Broker,
    unique: Callable[[str], str],
    *,
    named: bool,
) -> None:
    """On the second attempt a handler cannot tell that the message has been elsewhere."""
    exchange = unique("orders")
    broker.bind(queue, exchange, "orders.#")
    seen = []

    async def handle(message: Received) -> None:
        properties = asdict(message.properties)
        properties["headers"] = {
            name: value for name, value in foreign(message.headers).items() if name != "x-delivery-count"
        }
        seen.append((message.body, message.exchange, message.routing_key, properties))
        if len(seen) < 2:
            raise Refused

    way.consume(queue, handle, Policy(settle="return", retry=QUICK))
    broker.publish(
        "orders.new", b"order", exchange, properties=everything(broker.user, "m-1" if named else None)
    )
    until(client, lambda: len(seen) == 2)
    idle(client)

    first, second = seen
    assert (b"order", exchange, "orders.new") == first[:3]
    if named:
        assert asdict(everything(broker.user)) == first[3]
    second[3]["headers"].pop(names.HEADER_RETRIES)  # a fact of the whole request, not of one hop
    assert first == second


def test_request_can_limit_its_retries_everywhere(
    client: Client, queues: Callable[[], str], way: Way, broker: Broker
) -> None:
    """What retries cost is counted along the whole request, and handed to whatever is sent on."""
    queue, target = queues(), queues()
    attempts = []

    async def handle(message: Received) -> None:
        attempts.append(waybill.current().attempt)
        await message.publish(target, message.body)
        raise Refused

    way.consume(queue, handle, Policy(settle="return", retry=QUICK))
    with waybill.request(retry_limit=1):
        publish(client, queue)
    (taken,) = wait_for_parked(client, broker, queue)
    first, second = wait_for(client, broker, target, 2)

    assert [1, 2] == attempts
    assert "retry-limit" == taken.headers[names.HEADER_REASON]
    assert None is first.headers.get(names.HEADER_RETRIES)
    assert ("1", "1") == (second.headers[names.HEADER_RETRIES], second.headers[names.HEADER_RETRY_LIMIT])
    assert not any(name in second.headers for name in (names.HEADER_ATTEMPT, names.HEADER_ID))


def test_retries_that_others_have_spent_count(
    client: Client, queue: str, any_way: Way, broker: Broker
) -> None:
    """A request that has used up its retries elsewhere gets none here."""
    calls = []

    async def fail(_: Received) -> None:
        calls.append(1)
        raise Refused

    any_way.consume(queue, fail, Policy(settle="return", retry=QUICK))
    spent: dict[str, object] = {names.HEADER_RETRIES: "3", names.HEADER_RETRY_LIMIT: "3"}
    broker.publish(queue, properties=Properties(headers=spent))
    (taken,) = wait_for_parked(client, broker, queue)

    assert 1 == len(calls)
    assert ("retry-limit", "3") == (taken.headers[names.HEADER_REASON], taken.headers[names.HEADER_RETRIES])


def test_retry_that_would_come_too_late_is_not_made(
    client: Client, queue: str, any_way: Way, broker: Broker
) -> None:
    """When the deadline comes before the next attempt, the message is parked at once."""

    async def fail(_: Received) -> None:
        raise Refused

    slow = Retry(attempts=5, backoff=Backoff(first=20))
    any_way.consume(queue, fail, Policy(settle="return", retry=slow))
    soon = round((time.time() + 5) * 1000)
    broker.publish(queue, properties=Properties(headers={names.HEADER_DEADLINE: str(soon)}))
    (taken,) = wait_for_parked(client, broker, queue)

    assert "deadline-before-retry" == taken.headers[names.HEADER_REASON]
    assert "Refused" == taken.headers[names.HEADER_EXCEPTION_TYPE]
    assert time.time() * 1000 < soon


def test_very_short_waits_stay_in_the_process(
    client: Client, telemetry: Telemetry, queue: str, any_way: Way
) -> None:
    """Below an eighth of a second a message does not travel: it is held and runs again."""
    attempts = []

    async def handle(_: Received) -> None:
        attempts.append(waybill.current().attempt)
        if len(attempts) < 3:
            raise Refused

    short = Retry(attempts=3, backoff=Backoff(first=0.01, ceiling=0.05))
    any_way.consume(queue, handle, Policy(settle="return", retry=short))
    publish(client, queue)
    until(client, lambda: len(attempts) == 3)
    idle(client)

    assert [1, 2, 3] == attempts
    if any_way.traced:
        assert [f"publish {queue}"] == [span.name for span in telemetry.publishes()]
        assert [1, 2, 3] == [facts(span)["waybill.attempt"] for span in telemetry.processes()]
        assert 1 == len(telemetry.spans("ack"))
        ids = {identity(span).trace_id for span in telemetry.publishes() + telemetry.processes()}
        assert 1 == len(ids)


def test_first_failure_is_remembered(client: Client, queue: str, way: Way, broker: Broker) -> None:
    """A parked message says when its trouble began, also when it waited in the process."""

    async def fail(_: Received) -> None:
        raise Refused

    short = Retry(attempts=2, backoff=Backoff(first=0.05, ceiling=0.05, jitter="none"))
    way.consume(queue, fail, Policy(settle="return", retry=short))
    publish(client, queue)
    (taken,) = wait_for_parked(client, broker, queue)

    times = (taken.headers[name] for name in (names.HEADER_FIRST_FAILED_AT, names.HEADER_FAILED_AT))
    began, ended = (int(str(at)) for at in times)
    assert 50 <= ended - began + 1000 * EARLY


def test_message_that_kills_its_consumers_is_parked(
    client: Client, queue: str, any_way: Way, broker: Broker
) -> None:
    """What came back too often without an end is parked, and not tried once more."""
    calls = []

    async def handle(_: Received) -> None:
        calls.append(1)

    broker.publish(queue, b"bomb")
    broker.wear(queue, 3)
    policy = Policy(settle="return", retry=Retry(redeliveries=2))
    any_way.consume(queue, handle, policy)
    (taken,) = wait_for_parked(client, broker, queue)

    assert [] == calls
    assert (b"bomb", "crash-loop") == (taken.body, taken.headers[names.HEADER_REASON])


def test_parked_message_survives_whoever_looks_at_it(
    client: Client, queue: str, way: Way, broker: Broker
) -> None:
    """RabbitMQ 4 drops what was handed out 20 times in vain, unless its queue says otherwise."""

    async def fail(_: Received) -> None:
        raise Refused

    way.consume(queue, fail, Policy(settle="return", retry=None))
    publish(client, queue, b"order")
    until(client, lambda: [1] == broker.left(queue + PARKED))
    idle(client)  # the ack follows the confirm
    broker.wear(queue + PARKED, 30)

    assert [b"order"] == [taken.body for taken in broker.take(queue + PARKED)]


def test_strangers_cannot_spend_attempts(client: Client, queue: str, any_way: Way, broker: Broker) -> None:
    """A message that claims to be at its 99th attempt, or to come from elsewhere, is at its first."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append((waybill.current().attempt, message.exchange, message.routing_key))
        if len(seen) < 2:
            raise Refused

    any_way.consume(queue, handle, Policy(settle="return", retry=QUICK))
    claims: dict[str, object] = {
        names.HEADER_ATTEMPT: "99",
        names.HEADER_ID: "x",
        names.HEADER_ORIGIN_EXCHANGE: "bank",
        names.HEADER_ORIGIN_ROUTING_KEY: "transfer",
    }
    broker.publish(queue, properties=Properties(headers=claims))
    until(client, lambda: len(seen) == 2)
    idle(client)

    assert [(1, "", queue), (2, "", queue)] == seen


@pytest.mark.parametrize("named", [False, True], ids=["wrap", "policies="])
def test_suppressed_instrumentation_silences_no_policy(
    client: Client, telemetry: Telemetry, queue: str, *, named: bool
) -> None:
    """Where a program suppresses instrumentation its messages are retried all the same, without a trace."""
    policy = Policy(settle="return", retry=QUICK)
    telemetry.instrument(policies={queue: policy} if named else None)
    attempts = []

    async def handle(message: Received) -> None:
        attempts.append((waybill.current().attempt, "traceparent" in message.headers))
        if len(attempts) < 2:
            raise Refused

    callback = client.native(handle)
    with suppress_instrumentation():
        client.open()
        client.consume(queue, callback if named else policy.wrap(callback))
        publish(client, queue)
        until(client, lambda: len(attempts) == 2)
        idle(client)

    assert [(1, False), (2, False)] == attempts
    assert [] == telemetry.spans()


def test_expired_expiration_is_not_retried(client: Client, queue: str, way: Way, broker: Broker) -> None:
    """A message that its sender gave a time to live is not retried beyond it."""

    async def fail(_: Received) -> None:
        raise Refused

    slow = Retry(attempts=5, backoff=Backoff(first=20))
    way.consume(queue, fail, Policy(settle="return", retry=slow))
    broker.publish(queue, properties=Properties(expiration=5))
    (taken,) = wait_for_parked(client, broker, queue)

    assert "deadline-before-retry" == taken.headers[names.HEADER_REASON]
    assert None is taken.properties.expiration


_KEPT_APART = ("headers", "expiration", "user_id")
"""What a copy keeps in headers of its own, because the broker would act on it."""


def everything(user: str, message_id: str | None = "m-1") -> Properties:
    """Return properties of which none is missing."""
    return Properties(
        headers={"tenant": "acme"},
        content_type="application/json",
        content_encoding="utf-8",
        priority=3,
        correlation_id="c-1",
        reply_to="replies",
        expiration=60,
        message_id=message_id,
        type="order",
        user_id=user,
        app_id="shop",
    )


def test_refused_copies_are_tried_again(
    client: Client, queue: str, way: Way, broker: Broker, unique: Callable[[str], str]
) -> None:
    """Copies that a full queue refuses are held, and each is parked once when there is room again."""
    runs = []
    elsewhere = unique("full")

    async def handle(_: Received) -> None:
        runs.append(1)
        raise Refused

    way.consume(queue, handle, Policy(settle="return"))
    broker.publish(queue, b"0")
    wait_for_parked(client, broker, queue)  # not every client is ready as soon as it consumes
    broker.divert_parking(queue, elsewhere)
    for body in (b"1", b"2", b"3"):
        broker.publish(queue, body)
    until(client, lambda: len(runs) == 4)
    idle(client)
    assert [0] == broker.left(queue + PARKED)
    broker.restore_parking(queue, elsewhere)

    parked = wait_for_parked(client, broker, queue, 3)
    assert [b"1", b"2", b"3"] == sorted(each.body for each in parked)
    assert 4 == len(runs)
