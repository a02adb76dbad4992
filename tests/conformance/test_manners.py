"""What instrumenting must not change for a program: its objects, its callbacks, its control flow."""

import warnings
from collections.abc import Callable
from functools import partial

import pytest
from opentelemetry import baggage
from opentelemetry import context as otel

import otel_waybill as waybill
from conformance.broker import Broker, wait_for
from conformance.protocol import Client, Native, Properties, Received, idle, publish, raised, until
from conformance.telemetry import Telemetry, facts, identity, links
from conformance.ways import Way, consuming
from otel_waybill import Policy


class Bound:
    """A class whose method, and whose instances, are callbacks."""

    def __init__(self, callback: Native) -> None:
        self._callback = callback

    def method(self, *delivery: object) -> object:
        """Handle a delivery."""
        return self._callback(*delivery)

    __call__ = method


KINDS: dict[str, Callable[[Native], Native]] = {
    "function": lambda callback: callback,
    "partial": partial,
    "bound method": lambda callback: Bound(callback).method,
    "callable object": Bound,
    "lambda": lambda callback: lambda *delivery: callback(*delivery),  # noqa: PLW0108 - it is what is tested
}


@pytest.mark.parametrize("headers", [None, {}, {"tenant": "acme"}], ids=["none", "empty", "some"])
def test_message_of_the_caller_is_never_changed(
    client: Client, traced: Telemetry, queue: str, broker: Broker, headers: dict[str, object] | None
) -> None:
    """Headers and properties stay as the program made them; what is added is added to a copy."""
    message = client.message(b"", Properties(headers=headers, message_id="m-1"))
    before = client.headers(message)
    known = None if before is None else dict(before)
    with waybill.request(id="123456", deadline=30):
        client.send(message, queue)

    assert before is client.headers(message)
    assert known == before
    (taken,) = broker.take(queue)
    assert (headers or {}).items() < taken.headers.items()
    assert {"traceparent", "baggage", "waybill-deadline", "waybill-request-id"} < taken.headers.keys()
    assert 1 == len(traced.spans())


def test_properties_that_are_used_again_carry_nothing_over(
    client: Client, traced: Telemetry, queue: str, broker: Broker
) -> None:
    """A program that makes its properties once does not send the baggage of one message with the next."""
    message = client.message(b"", Properties(headers={"tenant": "acme"}))
    token = otel.attach(baggage.set_baggage("user", "alice"))
    try:
        with waybill.request(id="123456", deadline=30, retry_limit=3):
            client.send(message, queue)
    finally:
        otel.detach(token)
    client.send(message, queue)

    first, second = (taken.headers for taken in broker.take(queue))
    assert "user=alice" in str(first["baggage"])
    assert {"tenant", "traceparent"} == second.keys()
    assert 2 == len(traced.traces())
    assert first["traceparent"] != second["traceparent"]


def test_forwarded_properties_forward_no_facts_of_one_hop(
    client: Client, traced: Telemetry, queues: Callable[[], str], broker: Broker
) -> None:
    """A program that passes on what it got passes on no attempt, no failure and no old trace."""
    source, target = queues(), queues()

    async def forward(message: Received) -> None:
        await message.forward(target)
        await message.ack()

    client.consume(source, client.native(forward))
    stale = {
        "waybill-attempt": "99",
        "waybill-reason": "deadline",
        "waybill-deadline": "x",
        "tracestate": "a=b",
    }
    broker.publish(source, properties=Properties(headers={"tenant": "acme", **stale}))
    until(client, lambda: traced.spans("process"))

    (taken,) = wait_for(client, broker, target)
    assert {"tenant", "traceparent"} == taken.headers.keys()


def test_forwarded_message_is_linked_to_what_made_it(
    client: Client, traced: Telemetry, queues: Callable[[], str], broker: Broker
) -> None:
    """A publish with the headers of another message shows where that came from."""
    source, target = queues(), queues()

    async def forward(message: Received) -> None:
        await message.forward(target)
        await message.ack()

    client.consume(source, client.native(forward))
    publish(client, source)
    wait_for(client, broker, target)
    until(client, lambda: traced.spans("process"))

    first, second = traced.spans("publish")
    assert ([], [identity(first).span_id]) == (links(first), links(second))


def test_channels_that_were_opened_before_are_traced(
    client: Client, telemetry: Telemetry, queue: str
) -> None:
    """It does not matter whether a program connects before it is instrumented."""

    async def handle(message: Received) -> None:
        await message.ack()

    client.open()
    telemetry.instrument()
    client.consume(queue, client.native(handle))
    publish(client, queue)
    until(client, lambda: len(telemetry.spans()) == 3)

    assert 1 == len(telemetry.traces())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guarded", [False, True], ids=["bare", "wrapped"])
def test_whatever_can_be_called_can_be_a_callback(
    client: Client, traced: Telemetry, queue: str, kind: str, *, guarded: bool
) -> None:
    """Functions, partials, methods, objects and lambdas are called as ever."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append(message.body)
        await message.ack()

    callback = KINDS[kind](client.native(handle))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # aio-pika would rather have coroutine functions
        client.consume(queue, Policy().wrap(callback) if guarded else callback)
        publish(client, queue, b"here")
        until(client, lambda: len(traced.spans()) == 3)

    assert [b"here"] == seen


@pytest.mark.parametrize("guarded", [False, True], ids=["bare", "wrapped"])
def test_plain_functions_stay_plain(client: Client, traced: Telemetry, queue: str, *, guarded: bool) -> None:
    """A callback that is no coroutine function works on clients that take one."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append(message.body)

    callback = client.plain(handle)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # aio-pika would rather have coroutine functions
        client.consume(queue, Policy().wrap(callback) if guarded else callback, acknowledges=guarded)
        publish(client, queue, b"here")
        until(client, lambda: traced.spans("process"))

    assert [b"here"] == seen


def test_consumers_without_acknowledgements_are_traced(client: Client, traced: Telemetry, queue: str) -> None:
    """Nothing is settled there, so nothing is said about settling."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append(message.body)

    client.consume(queue, client.native(handle), acknowledges=False)
    publish(client, queue, b"here")
    until(client, lambda: traced.spans("process"))

    assert [b"here"] == seen
    assert 2 == len(traced.spans())


def test_interruption_passes_and_is_seen(
    client: Client, traced: Telemetry, queue: str, broker: Broker
) -> None:
    """What stops a handler from outside is not swallowed, and the trace shows it."""
    calls = []

    async def stop(message: Received) -> None:
        calls.append(message.body)
        raise client.interruption

    client.consume(queue, client.native(stop))
    publish(client, queue)
    until(client, lambda: traced.spans("process"))

    assert {client.interruption} >= {type(error) for error in raised(client)}
    assert facts(traced.only("process"))["error.type"] in {"asyncio.CancelledError", "SystemExit"}
    client.close()
    assert 1 == len(calls) == len(broker.take_back(queue, 1)), "it was not acknowledged"


def test_interruption_under_a_policy_costs_no_attempt(client: Client, queue: str, any_way: Way) -> None:
    """A handler that is stopped from outside gives its message back, uncounted."""
    attempts = []

    async def handle(_: Received) -> None:
        attempts.append(waybill.current().attempt)
        if len(attempts) == 1:
            raise client.interruption

    any_way.consume(queue, handle, Policy(settle="return"))
    publish(client, queue)
    if any_way.name == "run" and not client.features.fetches:
        # The interruption ends the loop that pulled, as it should: somebody starts another.
        until(client, lambda: attempts)
        idle(client)
        client.pull(queue, Policy(settle="return"), handle)
    until(client, lambda: len(attempts) == 2)
    idle(client)

    assert [1, 1] == attempts
    assert {client.interruption} >= {type(error) for error in raised(client)}


@consuming
def test_interruption_of_one_leaves_the_others(
    client: Client, queue: str, any_way: Way, broker: Broker
) -> None:
    """Messages that came together with one whose handler is stopped are handled, and that one again."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append(message.body)
        if len(seen) == 1:
            raise client.interruption

    for body in (b"1", b"2", b"3"):
        broker.publish(queue, body)
    any_way.consume(queue, handle, Policy(settle="return"))
    until(client, lambda: len(seen) == 4)
    idle(client)

    assert {b"1", b"2", b"3"} == set(seen)
    assert {client.interruption} >= {type(error) for error in raised(client)}
