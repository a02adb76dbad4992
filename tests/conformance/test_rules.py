"""Rules for failures: which of them are tried again, when, and at what cost."""

import time

import pytest

import otel_waybill as waybill
from conformance.broker import Broker, wait_for_parked
from conformance.protocol import Client, Received, idle, publish, until
from conformance.telemetry import Telemetry, facts
from conformance.ways import Way
from otel_waybill import Backoff, Policy, Retry, RetryAfter, RetryBudget, names

EARLY = 0.02
"""Seconds for which the clocks of broker and test may disagree; the broker is never early."""
QUICK = Backoff(first=0.25, ceiling=0.5, jitter="none")
"""Waits of 250 and 500 ms."""


class Refused(Exception):  # noqa: N818 - what a payment is
    """Some failure of a handler, with its code."""

    def __init__(self, code: int = 0) -> None:
        super().__init__(code)
        self.code = code


class Throttled(Exception):  # noqa: N818 - what the caller is
    """A failure of some library that knows when to come back."""

    def __init__(self, retry_after: object) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


def outcomes(telemetry: Telemetry) -> list[object]:
    """What became of each delivery."""
    return [facts(span)["waybill.outcome"] for span in telemetry.processes()]


def test_rules_decide_what_is_tried_again(client: Client, queue: str, any_way: Way, broker: Broker) -> None:
    """What is ignored is handled, what is permanent is parked at once, and the rest is retried."""
    runs: list[bytes] = []

    async def handle(message: Received) -> None:
        runs.append(message.body)
        if message.body == b"known":
            raise KeyError
        if message.body == b"once" and runs.count(b"once") == 2:
            return
        raise Refused(5 if message.body == b"stolen" else 6)

    retry = Retry(
        attempts=3,
        backoff=QUICK,
        ignore=KeyError,
        park=lambda error: isinstance(error, Refused) and error.code == 5,
    )
    any_way.consume(queue, handle, Policy(settle="return", retry=retry))
    for body in (b"known", b"stolen", b"once"):
        publish(client, queue, body)
    (taken,) = wait_for_parked(client, broker, queue)
    until(client, lambda: len(runs) == 4)
    idle(client)

    assert [b"known", b"once", b"once", b"stolen"] == sorted(runs)
    assert (b"stolen", "permanent") == (taken.body, taken.headers[names.HEADER_REASON])
    assert "1" == taken.headers[names.HEADER_ATTEMPT]


def test_anything_but_on_is_permanent(client: Client, queue: str, way: Way, broker: Broker) -> None:
    """A policy that says what is worth another run parks everything else at its first failure."""
    runs = []

    async def handle(_: Received) -> None:
        runs.append(1)
        raise Refused

    retry = Retry(attempts=3, backoff=QUICK, on=(ConnectionError, TimeoutError))
    way.consume(queue, handle, Policy(settle="return", retry=retry))
    publish(client, queue)
    (taken,) = wait_for_parked(client, broker, queue)

    assert [1] == runs
    assert ("permanent", "Refused") == (
        taken.headers[names.HEADER_REASON],
        taken.headers[names.HEADER_EXCEPTION_TYPE],
    )


def test_rule_with_a_bug_parks_and_shows_it(client: Client, queue: str, way: Way, broker: Broker) -> None:
    """A predicate that raises neither stops the consumer nor loses the message."""

    async def handle(_: Received) -> None:
        raise Refused

    retry = Retry(attempts=3, backoff=QUICK, park=lambda error: bool(error.args[7]))
    way.consume(queue, handle, Policy(settle="return", retry=retry))
    publish(client, queue)
    (taken,) = wait_for_parked(client, broker, queue)

    assert ("permanent", "IndexError") == (
        taken.headers[names.HEADER_REASON],
        taken.headers[names.HEADER_EXCEPTION_TYPE],
    )


@pytest.mark.parametrize("kind", [RetryAfter, Throttled])
def test_wait_past_the_last_rung_is_one_wait(
    client: Client, telemetry: Telemetry, queue: str, way: Way, kind: type[Exception]
) -> None:
    """An exception asks for more than any rung: over the ladder again and again, and then one more run."""
    runs: list[tuple[float, int, int]] = []

    async def handle(_: Received) -> None:
        runs.append((time.monotonic(), waybill.current().attempt, waybill.current().retries))
        if len(runs) == 1:
            raise kind(1.6)

    way.consume(queue, handle, Policy(settle="return", retry=Retry(attempts=3, backoff=QUICK)))
    publish(client, queue)
    until(client, lambda: len(runs) == 2)
    idle(client)

    assert [(1, 0), (2, 1)] == [run[1:] for run in runs]
    assert 1.6 - EARLY <= runs[1][0] - runs[0][0]
    seen = outcomes(telemetry)
    assert ("retried", "handled") == (seen[0], seen[-1])
    assert {"deferred"} == {*seen[1:-1]}
    assert {"deferred"} == set(seen[1:-1])
    assert {2} == {facts(span)["waybill.attempt"] for span in telemetry.processes()[1:]}
    assert 1 == len(telemetry.traces())


def test_time_for_retries_ends(client: Client, queue: str, way: Way, broker: Broker) -> None:
    """However many attempts are left, beyond the time for them the message is parked."""
    runs = []

    async def handle(_: Received) -> None:
        runs.append(time.monotonic())
        raise Refused

    way.consume(queue, handle, Policy(settle="return", retry=Retry(attempts=100, backoff=QUICK, elapsed=1.0)))
    publish(client, queue)
    (taken,) = wait_for_parked(client, broker, queue)

    assert "max-elapsed" == taken.headers[names.HEADER_REASON]
    assert 2 <= len(runs) <= 3
    assert str(len(runs)) == taken.headers[names.HEADER_ATTEMPT]


def test_retries_beyond_the_budget_cost_no_attempt(
    client: Client, telemetry: Telemetry, queue: str, way: Way
) -> None:
    """The budget has one retry: the next failure is put off, more than once, and attempts stand still."""
    attempts = []

    async def handle(_: Received) -> None:
        attempts.append(waybill.current().attempt)
        if len(attempts) < 4:
            raise Refused

    budget = RetryBudget(ratio=0, per_second=0.1)
    way.consume(queue, handle, Policy(settle="return", retry=Retry(attempts=3, backoff=QUICK, budget=budget)))
    publish(client, queue)
    until(client, lambda: len(attempts) == 4)
    idle(client)

    assert [1, 2, 2, 2] == attempts
    assert ["retried", "deferred", "deferred", "handled"] == outcomes(telemetry)


def test_deferrals_have_an_end(client: Client, queue: str, way: Way, broker: Broker) -> None:
    """What is put off too often pays with attempts, and is parked when they are used up."""
    attempts = []

    async def handle(_: Received) -> None:
        attempts.append(waybill.current().attempt)
        msg = "inventory"
        raise waybill.CircuitOpen(msg, 0.2, defer=True)

    way.consume(
        queue, handle, Policy(settle="return", retry=Retry(attempts=2, backoff=QUICK, max_deferrals=2))
    )
    publish(client, queue)
    (taken,) = wait_for_parked(client, broker, queue)

    assert [1, 1, 1, 2] == attempts
    assert ("max-attempts", "2") == (
        taken.headers[names.HEADER_REASON],
        taken.headers[names.HEADER_DEFERRALS],
    )


def test_message_that_killed_the_consumer_of_a_classic_queue(
    client: Client, broker: Broker, way: Way, classic: str
) -> None:
    """A classic queue does not count deaths: each one costs an attempt, until the message is parked."""
    runs = []

    async def handle(_: Received) -> None:
        runs.append(waybill.current().attempt)

    retry = Retry(attempts=2, backoff=QUICK, classic_guard=True)
    broker.publish(classic, b"bomb")
    broker.kill(classic)
    way.consume(classic, handle, Policy(settle="return", retry=retry))
    until(client, lambda: runs)
    idle(client)
    assert [2] == runs

    client.close()
    broker.publish(classic, b"harmless")
    assert [b"harmless"] == [taken.body for taken in broker.take(classic)]


def test_crash_loop_ends_without_retries_too(client: Client, queue: str, way: Way, broker: Broker) -> None:
    """A policy that says nothing of retries parks what came back too often, before the broker drops it."""
    calls = []

    async def handle(_: Received) -> None:
        calls.append(1)

    broker.publish(queue, b"bomb")
    broker.wear(queue, 20)
    way.consume(queue, handle, Policy(settle="return"))
    (taken,) = wait_for_parked(client, broker, queue)

    assert [] == calls
    assert (b"bomb", "crash-loop") == (taken.body, taken.headers[names.HEADER_REASON])
