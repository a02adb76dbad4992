"""Who settles: the policy, the program, or the program later from elsewhere; where no policy can stand."""

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

import otel_waybill as waybill
from conformance.broker import PARKED, Broker, wait_for_parked
from conformance.clients.registry import clients_that
from conformance.protocol import Client, Received, idle, publish, until
from conformance.telemetry import Telemetry, facts
from conformance.ways import BY_NAME, WRAP, Way, consuming
from otel_waybill import Backoff, InvalidPolicy, Outcome, Policy, Result, Retry, names
from otel_waybill.core.spec import Settle

RETRY = Retry(attempts=3, backoff=Backoff(first=0.2, ceiling=0.2, jitter="none"))
"""Waits of 250 ms."""


class Refused(Exception):  # noqa: N818 - what a payment is
    """Some failure of a handler."""


Refusal = Callable[[Received], object]


async def nack(message: Received) -> None:
    """Refuse *message*, which the client would put back at once."""
    await message.nack(requeue=True)


async def drop(message: Received) -> None:
    """Refuse *message*, which the client would throw away."""
    await message.reject(requeue=False)


async def fail(_: Received) -> None:
    """Fail."""
    raise Refused


async def fail_in_process_block(message: Received) -> None:
    """Fail inside the client's own block, which rejects and lets the exception pass."""
    async with message.process():
        raise Refused


REFUSALS = {"nack": nack, "reject": drop, "exception": fail}


def test_handler_that_acks_itself_is_respected(
    client: Client, telemetry: Telemetry, queue: str, any_way: Way
) -> None:
    """An ack of the handler's own is the only one, so the channel lives on."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append(message.body)
        await message.ack()

    any_way.consume(queue, handle, Policy(settle="return"))
    for body in (b"1", b"2", b"3"):
        publish(client, queue, body)
    until(client, lambda: len(seen) == 3)
    idle(client)
    publish(client, queue, b"4")
    until(client, lambda: len(seen) == 4)
    idle(client)

    assert [b"1", b"2", b"3", b"4"] == sorted(seen)
    if any_way.traced:
        assert 4 == len(telemetry.spans("ack"))
        assert {"handled"} == {facts(span)["waybill.outcome"] for span in telemetry.processes()}


@pytest.mark.parametrize("settle", ["return", "handler"])
def test_what_comes_after_an_ack_changes_nothing(
    client: Client, telemetry: Telemetry, queue: str, way: Way, settle: Settle
) -> None:
    """A message that was acknowledged is handled, even if the handler fails afterwards."""
    calls = []

    async def handle(message: Received) -> None:
        calls.append(1)
        await message.ack()
        raise Refused

    way.consume(queue, handle, Policy(settle=settle, retry=RETRY))
    publish(client, queue)
    until(client, telemetry.processes)
    idle(client, 0.4)

    assert 1 == len(calls) == len(telemetry.processes()) == len(telemetry.spans("ack"))
    assert "handled" == facts(telemetry.only("process"))["waybill.outcome"]


@pytest.mark.parametrize(
    ("settle", "refusal"),
    [("return", "nack"), ("handler", "nack"), ("handler", "reject"), ("handler", "exception")],
)
def test_refusal_is_a_failure_and_goes_to_the_policy(  # noqa: PLR0913, PLR0917 - each is a fixture
    client: Client, telemetry: Telemetry, queue: str, any_way: Way, settle: Settle, refusal: str
) -> None:
    """Nack, reject or exception: nothing of it reaches the broker, and the message is retried, once."""
    attempts = []

    async def handle(message: Received) -> None:
        attempts.append((waybill.current().attempt, message.redelivered))
        if len(attempts) == 1:
            await REFUSALS[refusal](message)
        else:
            await message.ack()

    any_way.consume(queue, handle, Policy(settle=settle, retry=RETRY))
    publish(client, queue)
    until(client, lambda: len(attempts) == 2)
    idle(client)

    assert [(1, False), (2, False)] == attempts
    if any_way.traced:
        until(client, lambda: len(telemetry.processes()) == 2)
        assert ["retried", "handled"] == [facts(span)["waybill.outcome"] for span in telemetry.processes()]
        assert [] == telemetry.spans("nack") + telemetry.spans("reject")
        assert 2 == len(telemetry.publishes()) == len(telemetry.spans("ack"))


@clients_that(lambda features: features.process)
def test_block_of_the_client_is_understood(
    client: Client, telemetry: Telemetry, queue: str, any_way: Way
) -> None:
    """An exception inside `message.process()` counts once, and its reject stays here."""
    attempts = []

    async def handle(message: Received) -> None:
        attempts.append((waybill.current().attempt, message.redelivered))
        if len(attempts) == 1:
            await fail_in_process_block(message)
        async with message.process():
            pass

    any_way.consume(queue, handle, Policy(settle="handler", retry=RETRY))
    publish(client, queue)
    until(client, lambda: len(attempts) == 2)
    idle(client)

    assert [(1, False), (2, False)] == attempts
    if any_way.traced:
        assert "Refused" == facts(telemetry.processes()[0])["error.type"]


@pytest.mark.parametrize("settle", ["return", "handler"])
@pytest.mark.parametrize("flag", ["requeue", "reject_on_redelivered", "ignore_processed"])
@clients_that(lambda features: features.process)
def test_flags_of_the_block_make_no_difference(  # noqa: PLR0913, PLR0917 - each is a fixture
    client: Client, queue: str, way: Way, broker: Broker, flag: str, settle: Settle
) -> None:
    """What the block would tell the broker of a failure, on a redelivered message too, is for the policy."""
    attempts = []

    async def handle(message: Received) -> None:
        attempts.append((waybill.current().attempt, message.redelivered))
        async with message.process(**{flag: True}):
            if len(attempts) == 1:
                raise Refused

    broker.publish(queue)
    broker.wear(queue, 1)
    way.consume(queue, handle, Policy(settle=settle, retry=RETRY))
    until(client, lambda: len(attempts) == 2)
    idle(client)

    assert [(1, True), (2, False)] == attempts


@pytest.mark.parametrize("settle", ["return", "handler"])
@pytest.mark.parametrize("refusal", ["nack", "reject"])
def test_refusal_before_an_exception_counts_once(
    client: Client, queue: str, way: Way, refusal: str, settle: Settle
) -> None:
    """A handler that refuses what it failed on, and raises all the same, has failed once."""
    attempts = []

    async def handle(message: Received) -> None:
        attempts.append((waybill.current().attempt, message.redelivered))
        if len(attempts) == 1:
            await REFUSALS[refusal](message)
            raise Refused
        await message.ack()

    way.consume(queue, handle, Policy(settle=settle, retry=RETRY))
    publish(client, queue)
    until(client, lambda: len(attempts) == 2)
    idle(client, 0.4)

    assert [(1, False), (2, False)] == attempts


@pytest.mark.parametrize("refusal", REFUSALS)
def test_refused_message_without_retries_is_parked(
    client: Client, queue: str, way: Way, broker: Broker, refusal: str
) -> None:
    """A reject that would have lost the message parks it instead."""

    async def handle(message: Received) -> None:
        await REFUSALS[refusal](message)

    way.consume(queue, handle, Policy(settle="handler"))
    publish(client, queue, b"order")
    (taken,) = wait_for_parked(client, broker, queue)

    assert (b"order", "max-attempts") == (taken.body, taken.headers[names.HEADER_REASON])


@consuming
def test_delivery_can_be_acknowledged_later_from_elsewhere(
    client: Client, telemetry: Telemetry, queue: str, any_way: Way
) -> None:
    """A handler that returns without settling leaves its delivery open, and an ack from elsewhere ends it."""
    seen: list[Received] = []

    async def keep(message: Received) -> None:
        seen.append(message)

    any_way.consume(queue, keep, Policy(settle="handler", retry=RETRY))
    publish(client, queue)
    until(client, lambda: seen)
    idle(client)
    assert [] == telemetry.spans("ack")
    client.ack_elsewhere(seen[0])
    idle(client)

    assert 1 == len(seen)
    if any_way.traced:
        assert 1 == len(telemetry.spans("ack"))
        assert "open" == facts(telemetry.processes()[0])["waybill.outcome"]


@consuming
def test_delivery_can_be_refused_later_from_elsewhere(
    client: Client, telemetry: Telemetry, queue: str, any_way: Way
) -> None:
    """A late refusal is a failure like an early one: the message is retried."""
    seen: list[tuple[int, Received]] = []

    async def keep(message: Received) -> None:
        seen.append((waybill.current().attempt, message))
        if len(seen) == 2:
            await message.ack()

    any_way.consume(queue, keep, Policy(settle="handler", retry=RETRY))
    publish(client, queue)
    until(client, lambda: seen)
    idle(client)
    client.reject_elsewhere(seen[0][1])
    until(client, lambda: len(seen) == 2)
    idle(client)

    assert [1, 2] == [attempt for attempt, _ in seen]
    if any_way.traced:
        assert 1 == len(telemetry.traces())


@clients_that(lambda features: not features.process)  # such messages refuse a second ack by themselves
def test_late_ack_does_no_harm(
    client: Client, queue: str, any_way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    """An ack for what its policy has settled already goes nowhere, so that the channel lives on."""
    seen: list[Received] = []

    async def keep(message: Received) -> None:
        seen.append(message)
        await message.pause(0)

    any_way.consume(queue, keep, Policy(settle="return"))
    for count in (1, 2, 3):
        publish(client, queue)
        until(client, lambda: len(seen) == count)  # noqa: B023 - called before the next turn
        idle(client)
        with caplog.at_level(logging.WARNING, "otel_waybill"):
            client.ack_elsewhere(seen[-1], multiple=count == 2)
            idle(client)

    lines = [record.getMessage() for record in caplog.records if record.name == "otel_waybill"]
    assert 1 == len(lines)
    assert "ignoring this ack of delivery 1 " in lines[0]


def test_open_delivery_stays_at_the_broker(client: Client, queue: str, way: Way, broker: Broker) -> None:
    """What nobody settles is there again when the consumer is gone."""
    seen = []

    async def keep(message: Received) -> None:
        seen.append(message.body)

    way.consume(queue, keep, Policy(settle="handler"))
    publish(client, queue, b"order")
    until(client, lambda: seen)
    client.close()

    assert [b"order"] == [taken.body for taken in broker.take_back(queue, 1)]


@consuming
def test_ack_of_many_covers_what_the_program_has(
    client: Client, queue: str, any_way: Way, broker: Broker
) -> None:
    """An ack with `multiple` ends all that handlers were given, and not what is being retried."""
    seen: list[tuple[bytes, int]] = []

    async def handle(message: Received) -> None:
        seen.append((message.body, waybill.current().attempt))
        if message.body == b"fails" and waybill.current().attempt == 1:
            raise Refused
        if message.body != b"stays open":
            await message.ack(multiple=True)

    for body in (b"stays open", b"fails", b"acks"):
        broker.publish(queue, body)
    any_way.consume(queue, handle, Policy(settle="handler", retry=RETRY))
    until(client, lambda: len(seen) == 4)
    idle(client)

    assert [(b"acks", 1), (b"fails", 1), (b"fails", 2), (b"stays open", 1)] == sorted(seen)


def test_policy_bounds_the_prefetch_unless_the_program_does(
    client: Client, telemetry: Telemetry, queue: str, way: Way, broker: Broker
) -> None:
    """A policy takes no more deliveries than its prefetch, or than the program asked for."""
    seen = []

    async def keep(message: Received) -> None:
        seen.append(message.body)

    telemetry.instrument(
        policies={queue: Policy(prefetch=2, settle="handler")} if way.name == BY_NAME.name else None
    )
    client.prefetch(3)
    for _ in range(5):
        broker.publish(queue)
    way.consume(queue, keep, Policy(prefetch=2, settle="handler"))
    until(client, lambda: len(seen) == 3)
    idle(client)
    assert 3 == len(seen)
    client.close()
    assert 5 == len(broker.take_back(queue, 5))


def test_prefetch_of_the_policy(client: Client, queue: str, way: Way, broker: Broker) -> None:
    """A policy takes no more deliveries than its prefetch."""
    seen = []

    async def keep(message: Received) -> None:
        seen.append(message.body)

    for _ in range(5):
        broker.publish(queue)
    way.consume(queue, keep, Policy(prefetch=2, settle="handler"))
    until(client, lambda: len(seen) == 2)
    idle(client)
    assert 2 == len(seen)
    client.close()
    assert 5 == len(broker.take_back(queue, 5))


@clients_that(lambda features: features.waits)
@pytest.mark.usefixtures("traced")
def test_run_tells_how_it_ended(client: Client, queue: str, broker: Broker) -> None:
    """Pulling, a program gets the outcome and nothing that the handler raises."""
    error = Refused("card declined")

    async def handle(message: Received) -> None:
        if message.body == b"bad" or waybill.current().attempt > 1:
            raise error

    client.pull(queue, Policy(retry=replace(RETRY, attempts=2)), handle)
    publish(client, queue, b"good")
    publish(client, queue, b"bad")
    wait_for_parked(client, broker, queue)
    until(client, lambda: len(client.outcomes) == 3)

    good, bad, parked = client.outcomes
    assert Outcome(result=Result.HANDLED, attempt=1) == good
    assert (Result.RETRIED, 1, error) == (bad.result, bad.attempt, bad.error)
    assert (Result.PARKED, 2, "max-attempts", error) == (
        parked.result,
        parked.attempt,
        parked.reason,
        parked.error,
    )


def test_policy_needs_acknowledgements(client: Client, telemetry: Telemetry, queue: str, way: Way) -> None:
    """Where the broker forgets a message as it sends it, no policy can stand, and consuming fails."""
    callback = client.native(nack)
    telemetry.instrument(policies={queue: Policy()} if way.name == BY_NAME.name else None)
    with pytest.raises(InvalidPolicy, match="without acknowledgements"):
        client.consume(
            queue, Policy().wrap(callback) if way.name == WRAP.name else callback, acknowledges=False
        )


@pytest.mark.parametrize("named", [False, True])
def test_policy_needs_a_queue_that_stays(
    client: Client, telemetry: Telemetry, way: Way, unique: Callable[[str], str], *, named: bool
) -> None:
    """A queue that vanishes with its consumer has nowhere for a retry to come back to, whoever named it."""
    wanted = unique("private") if named else ""
    callback = client.native(nack)
    telemetry.instrument()
    name = client.private_queue(wanted)
    if way.name == BY_NAME.name:
        waybill.instrument(policies={name: Policy()})
    with pytest.raises(InvalidPolicy, match="exclusive"):
        client.consume(name, Policy().wrap(callback) if way.name == WRAP.name else callback)


def test_policy_needs_a_queue_and_no_stream(
    client: Client, telemetry: Telemetry, way: Way, broker: Broker, unique: Callable[[str], str]
) -> None:
    """A stream keeps what was acknowledged, so that a retry would be a new message for all its readers."""
    name = unique("stream")
    callback = client.native(nack)
    telemetry.instrument(policies={name: Policy()} if way.name == BY_NAME.name else None)
    client.stream(name)
    try:
        with pytest.raises(InvalidPolicy, match="it is a stream"):
            client.consume(name, Policy().wrap(callback) if way.name == WRAP.name else callback)
    finally:
        broker.delete(name)


def test_policy_needs_a_bounded_prefetch(client: Client, telemetry: Telemetry, queue: str, way: Way) -> None:
    """Holding deliveries must be bounded, so a program that asked for no bound is told."""
    callback = client.native(nack)
    telemetry.instrument(policies={queue: Policy()} if way.name == BY_NAME.name else None)
    client.prefetch(0)
    with pytest.raises(InvalidPolicy, match="prefetch"):
        client.consume(queue, Policy().wrap(callback) if way.name == WRAP.name else callback)


@consuming
@clients_that(lambda features: not features.waits)
def test_existing_parking_of_another_kind_ends_the_channel(  # noqa: PLR0913, PLR0917 - each is a fixture
    client: Client,
    telemetry: Telemetry,
    queue: str,
    any_way: Way,
    broker: Broker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where consuming does not wait, its channel is closed with the reason, and nothing was handled."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append(message.body)
        await message.ack()

    broker.declare(queue + PARKED, **{"x-queue-type": "classic"})
    publish(client, queue, b"order")
    with caplog.at_level(logging.ERROR, "otel_waybill"):
        any_way.consume(queue, handle, Policy())
        until(client, lambda: "otel_waybill" in {record.name for record in caplog.records})
        idle(client)
    (line,) = (record.getMessage() for record in caplog.records if record.name == "otel_waybill")
    assert f"queue '{queue}{PARKED}'" in line
    assert "its x-overflow is none and would have to be reject-publish" in line
    assert [] == seen

    telemetry.instrument(policies={})
    client.consume(queue, client.native(handle))
    until(client, lambda: seen)
    assert [b"order"] == seen


def test_globs_apply_where_a_policy_can_stand(
    client: Client, telemetry: Telemetry, queue: str, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """A glob covers many queues, and passes by those where a policy cannot stand, with one line each."""
    private = client.private_queue()
    telemetry.instrument(policies={"*": Policy()})
    seen = []

    async def handle(message: Received) -> None:
        seen.append(message.routing_key)
        await drop(message)

    with caplog.at_level(logging.INFO, "otel_waybill"):
        client.consume(private, client.native(handle))
        client.consume(queue, client.native(handle))
    publish(client, private)
    publish(client, queue)
    wait_for_parked(client, broker, queue)

    assert sorted([private, queue]) == sorted(seen)
    (line,) = (record.getMessage() for record in caplog.records if record.name == "otel_waybill")
    assert private in line


@pytest.mark.parametrize("exact", [False, True], ids=["wrap", "exact name"])
def test_closest_policy_wins(
    client: Client, telemetry: Telemetry, queue: str, broker: Broker, *, exact: bool
) -> None:
    """A wrap beats a name, a name beats a glob, and the first glob beats the others."""
    attempts = []

    async def handle(_: Received) -> None:
        attempts.append(waybill.current().attempt)
        raise Refused

    def tries(count: int) -> Policy:
        return Policy(settle="return", retry=Retry(attempts=count, backoff=Backoff(first=0.01, ceiling=0.01)))

    policies = {"conformance-*": tries(4), "*": tries(5), queue: tries(3)}
    telemetry.instrument(policies=policies)
    callback = client.native(handle)
    client.consume(queue, callback if exact else tries(2).wrap(callback))
    publish(client, queue)
    wait_for_parked(client, broker, queue)

    assert (3 if exact else 2) == len(attempts)


def test_first_glob_wins(client: Client, telemetry: Telemetry, queue: str, broker: Broker) -> None:
    """Among globs, the first that matches counts."""
    attempts = []

    async def handle(_: Received) -> None:
        attempts.append(1)
        raise Refused

    def tries(count: int) -> Policy:
        return Policy(retry=Retry(attempts=count, backoff=Backoff(first=0.01, ceiling=0.01)))

    telemetry.instrument(policies={"conformance-*": tries(2), "*": tries(5)})
    client.consume(queue, client.native(handle))
    publish(client, queue)
    wait_for_parked(client, broker, queue)

    assert 2 == len(attempts)


def test_consumer_keeps_its_policy_when_the_program_is_uninstrumented(
    client: Client, telemetry: Telemetry, queue: str, way: Way, broker: Broker
) -> None:
    """Telemetry can go away under a running consumer; what it promised about messages stays."""
    seen = []

    async def handle(message: Received) -> None:
        seen.append(message.body)
        raise Refused

    way.consume(queue, handle, Policy(settle="return"))
    waybill.uninstrument()
    publish(client, queue, b"order")
    (taken,) = wait_for_parked(client, broker, queue)

    assert [b"order"] == seen
    assert "max-attempts" == taken.headers[names.HEADER_REASON]
    assert [] == telemetry.spans()
