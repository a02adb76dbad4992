"""Trust: a policy chooses whose facts count; the trace goes on in every case."""

from collections.abc import Callable

import pytest
from opentelemetry import baggage

import otel_waybill as waybill
from conformance.broker import Broker, wait_for
from conformance.protocol import Client, Properties, Received, until
from conformance.telemetry import Telemetry, identity
from conformance.ways import Way
from otel_waybill import Backoff, Policy, Retry, names

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SAID = {
    names.HEADER_TRACEPARENT: TRACE,
    names.HEADER_BAGGAGE: "tenant=acme,waybill.request-id=123456,waybill.deadline=1,waybill.retry-limit=9",
    names.HEADER_REQUEST_ID: "123456",
    names.HEADER_RETRY_LIMIT: "9",
    names.HEADER_RETRIES: "9",
    names.HEADER_DEADLINE: "253402300799000",
}
SOON = Retry(attempts=3, backoff=Backoff(first=0.25, ceiling=0.25, jitter="none"))


def test_strangers_have_no_say(
    client: Client, telemetry: Telemetry, queues: Callable[[], str], any_way: Way, broker: Broker
) -> None:
    """A deadline that has passed, from nobody who is believed, stops nothing and passes to nobody."""
    source, target = queues(), queues()
    seen = []

    async def pass_on(message: Received) -> None:
        seen.append((waybill.current().request_id, waybill.remaining(), baggage.get_baggage("tenant")))
        await message.publish(target, message.body)

    any_way.consume(source, pass_on, Policy(settle="return", trust="none"))
    broker.publish(source, properties=Properties(headers=SAID | {names.HEADER_DEADLINE: "1"}))

    (child,) = wait_for(client, broker, target)
    assert [(None, None, "acme" if any_way.traced else None)] == seen
    assert not any(name.startswith(names.HEADER_PREFIX) for name in child.headers)
    assert "waybill" not in str(child.headers.get(names.HEADER_BAGGAGE))
    if any_way.traced:
        (process,) = telemetry.processes()
        assert f"{identity(process).trace_id:032x}" in TRACE


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "stranger"])
def test_retries_keep_the_trust_of_their_original(
    client: Client, queue: str, any_way: Way, broker: Broker, *, listed: bool
) -> None:
    """A user id that the broker has validated is believed in every attempt; without it nothing ever is."""
    seen = []

    async def fail_once(message: Received) -> None:
        now = waybill.current()
        seen.append((now.attempt, now.request_id, now.retry_limit, now.retries, message.properties.user_id))
        if len(seen) == 1:
            raise ValueError

    any_way.consume(queue, fail_once, Policy(settle="return", retry=SOON, trust={broker.user, "billing"}))
    user = broker.user if listed else None
    headers = SAID | {names.HEADER_RETRIES: "5", names.HEADER_ORIGIN_USER_ID: broker.user}
    broker.publish(queue, properties=Properties(headers=headers, user_id=user))
    until(client, lambda: len(seen) == 2)

    believed = ("123456", 9) if listed else (None, None)
    before = 5 if listed else 0
    assert [(1, *believed, before, user), (2, *believed, before + 1, user)] == seen
