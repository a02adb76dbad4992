"""Limits: never more than allowed, everything in the end, and nothing else of the connection waits."""

import time
from collections import Counter
from collections.abc import Callable

import pytest
from opentelemetry.sdk.trace import ReadableSpan

import otel_waybill as waybill
from conformance.broker import Broker
from conformance.clients import registry
from conformance.protocol import Client, Received, idle, publish, until
from conformance.telemetry import Telemetry, facts
from conformance.ways import WRAP, Way
from otel_waybill import Backoff, ConcurrencyLimit, Policy, RateLimit, Retry

QUICK = Retry(attempts=3, backoff=Backoff(first=0.25, ceiling=0.5, jitter="none"))
ONCE = RateLimit(1, per=3600.0)


class Refused(Exception):  # noqa: N818 - what a payment is
    """Some failure of a handler."""


@pytest.mark.parametrize("by", [None, "header:tenant"])
def test_never_too_many_at_a_time(client: Client, queue: str, way: Way, by: str | None) -> None:
    """Two handlers at a time, or one for each tenant: as many as allowed, never more, and all are handled."""
    inside: Counter[object] = Counter()
    most: Counter[object] = Counter()
    together, done = [], []
    parallel = client.features.stops

    async def handle(message: Received) -> None:
        key = message.headers.get("tenant")
        inside[key] += 1
        most[key] = max(most[key], inside[key])
        most["all"] = max(most["all"], inside.total())
        if inside.total() == 2:
            together.append(1)
        while parallel and not together:
            await message.pause(0.01)
        if parallel:
            await message.pause(0.01)
        inside[key] -= 1
        done.append(message.body)

    limit = ConcurrencyLimit(2 if by is None else 1, by=by)
    way.consume(queue, handle, Policy(settle="return", concurrency=limit))
    bodies = [str(i).encode() for i in range(8)]
    for i, body in enumerate(bodies):
        publish(client, queue, body, headers={"tenant": "acme" if i % 2 else "evil"})
    until(client, lambda: len(done) == 8)
    idle(client)

    assert bodies == sorted(done)
    assert most["all"] == (2 if parallel else 1)
    assert by is None or (1, 1) == (most["acme"], most["evil"])


def test_one_at_a_time_is_in_turn(client: Client, queue: str, any_way: Way) -> None:
    """Who waits for a place gets it in the order in which the messages came."""
    seen: list[bytes] = []

    async def handle(message: Received) -> None:
        if client.features.stops:
            await message.pause(0.01)
        seen.append(message.body)

    any_way.consume(queue, handle, Policy(settle="return", concurrency=1))
    bodies = [str(i).encode() for i in range(9)]
    for body in bodies:
        publish(client, queue, body)
    until(client, lambda: len(seen) == 9)

    assert bodies == seen


def test_pace_keeps_the_order(client: Client, queue: str, any_way: Way) -> None:
    """Who waits for the pace is let go in turn, and all are in the end."""
    seen: list[bytes] = []
    times: list[float] = []

    async def handle(message: Received) -> None:
        seen.append(message.body)
        times.append(time.monotonic())

    any_way.consume(queue, handle, Policy(settle="return", rate=RateLimit(40, burst=2)))
    bodies = [str(i).encode() for i in range(9)]
    for body in bodies:
        publish(client, queue, body)
    until(client, lambda: len(seen) == 9)

    assert bodies == seen
    assert 7 / 40 - 0.01 <= times[-1] - times[0]


def test_held_for_too_long_is_put_off_uncounted(
    client: Client, telemetry: Telemetry, queue: str, way: Way, broker: Broker
) -> None:
    """One run an hour: the second message goes away and comes back, and has failed and cost nothing."""
    runs = []

    async def handle(message: Received) -> None:
        runs.append(message.body)

    way.consume(queue, handle, Policy(settle="return", retry=QUICK, rate=ONCE, hold_max=0.2))
    for body in (b"first", b"second"):
        publish(client, queue, body)
    until(client, lambda: len(deferred(telemetry)) == 2)
    client.close()

    assert [b"first"] == runs
    assert {1} == {facts(span)["waybill.attempt"] for span in deferred(telemetry)}
    taken = broker.wait(queue)
    assert (b"second", "1") == (taken.body, taken.headers["waybill-attempt"])
    assert {"waybill-first-failed-at", "waybill-deferrals", "waybill-retries"}.isdisjoint(taken.headers)


def test_keys_are_paced_apart(client: Client, queue: str, way: Way, broker: Broker) -> None:
    """One tenant that has used up its hour holds up no other, nor those without the header."""
    runs = []

    async def handle(message: Received) -> None:
        runs.append(message.body)

    rate = RateLimit(1, per=3600.0, by="header:tenant")
    way.consume(queue, handle, Policy(settle="return", retry=QUICK, rate=rate))
    for body, tenant in ((b"a1", "acme"), (b"a2", "acme"), (b"b", "bolt"), (b"c", [1]), (b"d", None)):
        publish(client, queue, body, headers={"tenant": tenant} if tenant else None)
    until(client, lambda: len(runs) == 3)
    idle(client)
    client.close()

    assert [b"a1", b"b", b"c"] == runs
    assert [b"a2", b"d"] == sorted(taken.body for taken in (broker.wait(queue), broker.wait(queue)))


def test_order_is_kept_over_a_retry(client: Client, telemetry: Telemetry, queue: str, any_way: Way) -> None:
    """With in_order a failed message waits where it is, and those behind it wait as well."""
    seen: list[tuple[bytes, int]] = []

    async def handle(message: Received) -> None:
        seen.append((message.body, waybill.current().attempt))
        if client.features.stops:
            await message.pause(0.01)
        if message.body == b"2" and len(seen) < 4:
            raise Refused

    retry = Retry(attempts=3, backoff=Backoff(first=0.2, ceiling=0.3, jitter="none"), in_order=True)
    any_way.consume(queue, handle, Policy(settle="return", retry=retry))
    for body in (b"1", b"2", b"3", b"4"):
        publish(client, queue, body)
    until(client, lambda: len(seen) == 6)
    idle(client)

    assert [(b"1", 1), (b"2", 1), (b"2", 2), (b"2", 3), (b"3", 1), (b"4", 1)] == seen
    if any_way.traced:
        assert 4 == len(telemetry.publishes()), "nothing went over the ladder"


def test_given_up_message_lets_the_next_one_go_in_order(
    client: Client, queue: str, way: Way, broker: Broker
) -> None:
    """After its last attempt a message is parked, and the queue goes on."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append(message.body)
        if message.body == b"1":
            raise Refused

    retry = Retry(attempts=2, backoff=Backoff(first=0.15, ceiling=0.15, jitter="none"), in_order=True)
    way.consume(queue, handle, Policy(settle="return", retry=retry))
    for body in (b"1", b"2"):
        publish(client, queue, body)
    until(client, lambda: len(seen) == 3)
    idle(client)

    assert [b"1", b"1", b"2"] == seen
    assert [b"1"] == [taken.body for taken in broker.take(queue + ".parked")]


def test_a_held_queue_holds_up_nothing_else(
    client: Client, telemetry: Telemetry, queues: Callable[[], str], broker: Broker, amqp_url: str
) -> None:
    """While one queue waits, another on the same connection is busy, and the heartbeats go on."""
    held, busy = queues(), queues()
    beating = registry.ALL[client.name](f"{amqp_url}?heartbeat=1")
    try:
        runs: list[bytes] = []
        others: list[bytes] = []

        async def handle(message: Received) -> None:
            runs.append(message.body)

        async def serve(message: Received) -> None:
            others.append(message.body)

        Way(WRAP, beating, telemetry).consume(held, handle, Policy(rate=ONCE))
        beating.consume(busy, Policy().wrap(beating.native(serve)))
        for body in (b"1", b"2", b"3"):
            publish(beating, held, body)
        until(beating, lambda: runs)
        began, sent = time.monotonic(), 0
        while time.monotonic() - began < 4.0:  # heartbeats that are missed for 2 s end the connection
            publish(beating, busy, b"busy")
            sent += 1
            until(beating, lambda: len(others) == sent)  # noqa: B023 - called at once
        assert [b"1"] == runs
    finally:
        beating.close()
    assert [] == beating.raised
    assert [b"2", b"3"] == sorted(taken.body for taken in (broker.wait(held), broker.wait(held)))


def deferred(telemetry: Telemetry) -> list[ReadableSpan]:
    """The spans of deliveries that were put off."""
    return [span for span in telemetry.processes() if facts(span).get("waybill.outcome") == "deferred"]
