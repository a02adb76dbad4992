"""Topology: what a policy declares, checks or trusts before consuming, and where it parks."""

from collections.abc import Callable

import pytest

import otel_waybill as waybill
from conformance.broker import PARKED, Broker, wait_for, wait_for_parked
from conformance.clients.registry import clients_that
from conformance.protocol import Client, Received, publish, until
from conformance.telemetry import Telemetry
from conformance.ways import Way
from otel_waybill import Backoff, Policy, Retry, TopologyMismatch, TopologyMissing, names
from otel_waybill.core.spec import TopologyMode

RETRY = Retry(attempts=2, backoff=Backoff(first=0.2, ceiling=0.2, jitter="none"))
"""One wait of 250 ms."""


class Refused(Exception):  # noqa: N818 - what a payment is
    """Some failure of a handler."""


async def fail(_: Received) -> None:
    """Fail."""
    msg = "password=hunter2"
    raise Refused(msg)


def still_works(client: Client, telemetry: Telemetry, queue: str) -> None:
    """Assert that *client* can go on consuming."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append(message.body)
        await message.ack()

    client.consume(queue, client.native(handle))
    publish(client, queue, b"still works")
    until(client, lambda: telemetry.spans("ack"))
    assert [b"still works"] == seen


@clients_that(lambda features: features.waits)
def test_existing_parking_of_another_kind_is_a_clear_error(
    client: Client, telemetry: Telemetry, queue: str, way: Way, broker: Broker
) -> None:
    """A parking queue with other arguments stops the consumer before it starts, and nothing else."""
    broker.declare(queue + PARKED, **{"x-queue-type": "classic"})
    with pytest.raises(TopologyMismatch) as caught:
        way.consume(queue, fail, Policy())
    error = caught.value
    assert f"queue '{queue}{PARKED}'" == error.entity
    assert "inequivalent arg" in error.reply
    assert error.argument is not None
    assert f"its {error.argument} is {error.found} and would have to be {error.wanted}" in str(error)

    still_works(client, telemetry, queue + PARKED)


@pytest.mark.parametrize("topology", ["passive", "none"])
def test_topology_that_others_declare_is_used(
    client: Client, queue: str, any_way: Way, broker: Broker, topology: TopologyMode
) -> None:
    """Where an administrator has declared everything, retries and parking work without declaring a thing."""
    policy = Policy(settle="return", retry=RETRY, topology=topology)
    attempts = []

    async def handle(message: Received) -> None:
        attempts.append(waybill.current().attempt)
        await fail(message)

    broker.prepare(queue, policy)
    any_way.consume(queue, handle, policy)
    publish(client, queue, b"order")
    (taken,) = wait_for_parked(client, broker, queue)

    assert [1, 2] == attempts
    assert (b"order", "max-attempts") == (taken.body, taken.headers[names.HEADER_REASON])


@clients_that(lambda features: features.waits)
def test_passive_names_what_is_missing(
    client: Client, telemetry: Telemetry, queues: Callable[[], str], way: Way, broker: Broker
) -> None:
    """What is not there stops the consumer before it starts, is named, and stays undeclared."""
    queue = queues()
    broker.prepare(queue, Policy())
    broker.delete(queue)
    broker.declare(queue)
    with pytest.raises(TopologyMissing) as caught:
        way.consume(queue, fail, Policy(topology="passive"))
    assert f"queue '{queue}{PARKED}'" == caught.value.entity
    assert "NOT_FOUND" in caught.value.reply
    assert not broker.exists(queue + PARKED)

    still_works(client, telemetry, queues())


def test_passive_takes_what_is_there(client: Client, queue: str, way: Way, broker: Broker) -> None:
    """A parking queue with other arguments will do: whoever declared it so had his reasons."""
    parked = queue + PARKED
    broker.declare(parked, **{"x-queue-type": "classic"})
    broker.prepare(queue, Policy(parking=parked))
    way.consume(queue, fail, Policy(settle="return", topology="passive"))
    publish(client, queue, b"order")
    (taken,) = wait_for_parked(client, broker, queue)

    assert b"order" == taken.body


def test_none_asks_for_nothing(client: Client, queue: str, way: Way, broker: Broker) -> None:
    """A policy that trusts neither declares nor looks."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append(message.body)

    way.consume(queue, handle, Policy(settle="return", topology="none"))
    publish(client, queue, b"order")
    until(client, lambda: seen)

    assert not broker.exists(queue + PARKED)


def test_queue_that_is_made_anew_gets_its_retries_back(
    client: Client, queue: str, way: Way, broker: Broker
) -> None:
    """A queue that was deleted has lost its way back; whoever consumes the new one makes another."""
    attempts = []

    async def handle(message: Received) -> None:
        attempts.append(waybill.current().attempt)
        await fail(message)

    for _ in range(2):
        broker.delete(queue)
        # Not a quorum queue: RabbitMQ 3.10 may keep what is in the new one from who consumed the old one.
        broker.declare(queue, **{"x-queue-type": "classic"})
        way.consume(queue, handle, Policy(settle="return", retry=RETRY))
        publish(client, queue)
        wait_for_parked(client, broker, queue)

    assert [1, 2, 1, 2] == attempts


def test_parking_in_a_queue_of_the_users(
    client: Client, queues: Callable[[], str], any_way: Way, broker: Broker
) -> None:
    """A team's own dead-letter queue gets what fails, with the same facts, and no other queue is made."""
    queue, dlq = queues(), queues()
    any_way.consume(queue, fail, Policy(settle="return", retry=RETRY, parking=dlq))
    publish(client, queue, b"order")
    (taken,) = wait_for(client, broker, dlq)

    assert (b"order", names.PARKING_EXCHANGE, queue) == (taken.body, taken.exchange, taken.routing_key)
    facts = {names.HEADER_REASON: "max-attempts", names.HEADER_QUEUE: queue, names.HEADER_ATTEMPT: "2"}
    assert facts.items() <= taken.headers.items()
    assert not broker.exists(queue + PARKED)


@clients_that(lambda features: features.waits)
@pytest.mark.parametrize("topology", ["declare", "passive"])
def test_parking_queue_must_exist(
    client: Client, telemetry: Telemetry, queues: Callable[[], str], way: Way, topology: TopologyMode
) -> None:
    """A queue of the user's that is not there is an error before anything is consumed."""
    queue = queues()
    dlq = f"{queue}-dlq"
    with pytest.raises(TopologyMissing) as caught:
        way.consume(queue, fail, Policy(parking=dlq, topology=topology))
    assert f"queue '{dlq}'" == caught.value.entity

    still_works(client, telemetry, queues())


@clients_that(lambda features: features.waits)
def test_what_only_the_broker_can_explain_is_left_as_it_is(
    client: Client, telemetry: Telemetry, queues: Callable[[], str], way: Way, broker: Broker
) -> None:
    """A parking queue that belongs to another connection is refused in the words of broker and client."""
    with pytest.raises(client.locked, match="RESOURCE_LOCKED"):
        way.consume(queues(), fail, Policy(parking=broker.private_queue()))

    still_works(client, telemetry, queues())


def test_private_queue_retries_and_parks_elsewhere(
    client: Client, telemetry: Telemetry, queues: Callable[[], str], broker: Broker
) -> None:
    """What a nameless queue cannot handle is retried while it lives, and parked in one that stays."""
    private, dlq = client.private_queue(), queues()
    telemetry.instrument()
    attempts = []

    async def handle(message: Received) -> None:
        attempts.append((waybill.current().attempt, message.routing_key))
        await fail(message)

    policy = Policy(retry=RETRY, parking=dlq)
    client.consume(private, policy.wrap(client.native(handle)))
    publish(client, private, b"news")
    (taken,) = wait_for(client, broker, dlq)

    assert [(1, private), (2, private)] == attempts
    assert (b"news", f"waybill.anonymous.{dlq}") == (taken.body, taken.routing_key)
    assert private == taken.headers[names.HEADER_QUEUE]


@pytest.mark.parametrize("described", ["the gateway refused", None])
def test_words_of_a_failure_can_be_chosen(
    client: Client, queue: str, any_way: Way, broker: Broker, described: str | None
) -> None:
    """What an exception says does not reach the broker where the program says it better, or not at all."""
    errors = []

    def describe(error: BaseException) -> str | None:
        errors.append(error)
        return described

    any_way.consume(queue, fail, Policy(settle="return", describe=describe))
    publish(client, queue)
    (taken,) = wait_for_parked(client, broker, queue)

    assert [Refused] == [type(error) for error in errors]
    assert described == taken.headers.get(names.HEADER_EXCEPTION_MESSAGE)
    assert "Refused" == taken.headers[names.HEADER_EXCEPTION_TYPE]
    assert "hunter2" not in str(taken)
