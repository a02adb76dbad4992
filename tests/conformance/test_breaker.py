"""Circuit breakers: a failing dependency pauses its consumers, and nothing is spent meanwhile."""

import itertools
import time
from collections.abc import Callable

import pytest

import otel_waybill as waybill
from conformance.broker import PARKED, Broker
from conformance.protocol import Client, Received, idle, publish, until
from conformance.telemetry import Telemetry, facts
from conformance.ways import Way, consuming
from otel_waybill import Backoff, CircuitBreaker, CircuitOpen, Policy, Retry

_numbers = itertools.count()
AGAIN = Retry(attempts=10, backoff=Backoff(first=0.2, ceiling=0.2, jitter="none"))


class Down(Exception):  # noqa: N818 - a state of the dependency
    """The gateway does not answer."""


@pytest.fixture
def gateway() -> CircuitBreaker:
    """A breaker that opens after two failures of two, for 0.4 s."""
    return CircuitBreaker(
        f"gateway-{next(_numbers)}", minimum_calls=2, open_for=0.4, open_jitter=0, probes=2, probe_success=1.0
    )


@consuming
def test_outage_pauses_the_consumer_and_loses_nothing(
    client: Client, queues: Callable[[], str], any_way: Way, gateway: CircuitBreaker
) -> None:
    """While the breaker is open deliveries wait untouched; when it has recovered all of them are handled."""
    queue, other = queues(), queues()
    down = True
    runs: list[tuple[bytes, int]] = []
    handled: list[bytes] = []
    others: list[bytes] = []

    async def charge(message: Received) -> None:
        runs.append((message.body, waybill.current().attempt))
        if down:
            raise Down
        handled.append(message.body)

    async def serve(message: Received) -> None:
        others.append(message.body)
        await message.ack()

    any_way.consume(queue, charge, Policy(settle="return", breaker=gateway, retry=AGAIN))
    client.consume(other, client.native(serve))
    for body in (b"1", b"2"):
        publish(client, queue, body)
    until(client, lambda: gateway.state == "open")

    tried = len(runs)
    for body in (b"3", b"4", b"5"):
        publish(client, queue, body)
    publish(client, other, b"other")
    until(client, lambda: others)
    assert "open" == gateway.state
    assert tried == len(runs), "nothing runs while it is open"

    down = False
    until(client, lambda: len(handled) == 5)
    idle(client)

    assert [b"1", b"2", b"3", b"4", b"5"] == sorted(handled)
    assert "closed" == gateway.state
    assert {1} == {attempt for body, attempt in runs if body in {b"3", b"4", b"5"}}


@pytest.mark.usefixtures("traced")
def test_pulled_delivery_waits_for_the_dependency(
    client: Client, queue: str, gateway: CircuitBreaker
) -> None:
    """A program that pulls waits in `run` until the breaker lets it through."""
    opened = _open(gateway)
    times = []

    async def charge(_: Received) -> None:
        times.append(time.monotonic())

    client.pull(queue, Policy(breaker=gateway), charge)
    publish(client, queue)
    until(client, lambda: times)
    idle(client)

    if client.features.waits:
        assert [waybill.Outcome(result=waybill.Result.HANDLED, attempt=1)] == client.outcomes
    assert 0.4 <= times[0] - opened


def test_probes_decide_and_failed_ones_open_it_again(
    client: Client, telemetry: Telemetry, queue: str, way: Way, gateway: CircuitBreaker
) -> None:
    """After the open time a few messages are tried; if they fail it stays open, and for longer."""
    changes: list[tuple[object, object]] = []
    down = True
    handled = []

    async def charge(message: Received) -> None:
        if down:
            raise Down
        handled.append(message.body)

    way.consume(queue, charge, Policy(settle="return", breaker=gateway, retry=AGAIN))
    for _ in range(3):
        publish(client, queue)

    def seen() -> list[tuple[object, object]]:
        events = [event for span in telemetry.processes() for event in span.events]
        events.sort(key=lambda event: event.timestamp)
        changes[:] = [
            (facts["waybill.breaker.previous_state"], facts["waybill.breaker.state"])
            for event in events
            if event.name == "waybill.breaker" and (facts := dict(event.attributes or {}))
        ]
        return changes

    until(client, lambda: ("half-open", "open") in seen())
    down = False
    until(client, lambda: len(handled) == 3)
    idle(client)

    seen()
    assert [("closed", "open"), ("open", "half-open"), ("half-open", "open")] == changes[:3]
    assert [("open", "half-open"), ("half-open", "closed")] == changes[-2:]


def test_held_delivery_says_how_long_it_waited(
    client: Client, telemetry: Telemetry, queue: str, way: Way, gateway: CircuitBreaker
) -> None:
    """The span of a run that was held back shows the wait, and only that run."""
    opened = _open(gateway)
    seen = []

    async def charge(message: Received) -> None:
        seen.append((time.monotonic(), waybill.current().attempt, message.redelivered))

    way.consume(queue, charge, Policy(settle="return", breaker=gateway))
    publish(client, queue)
    until(client, telemetry.processes)

    ((when, attempt, redelivered),) = seen
    assert 0.4 <= when - opened
    assert (1, False) == (attempt, redelivered)
    held = facts(telemetry.only("process"))["waybill.held_ms"]
    assert isinstance(held, int)
    assert 0 < held <= 1000 * (when - opened)


def test_held_deliveries_are_parked_when_they_expire(
    client: Client, queue: str, way: Way, broker: Broker
) -> None:
    """What waits for a dependency waits no longer than its deadline."""
    gateway = CircuitBreaker(f"gateway-{next(_numbers)}", minimum_calls=1, open_for=60)
    _open(gateway)
    calls = []

    async def charge(_: Received) -> None:
        calls.append(1)

    way.consume(queue, charge, Policy(settle="return", breaker=gateway, skew_tolerance=0))
    with waybill.deadline(0.3):
        publish(client, queue)
    until(client, lambda: broker.left(queue + PARKED) == [1])
    idle(client)  # the ack follows the confirm

    assert [] == calls
    (taken,) = broker.take(queue + PARKED)
    assert "deadline" == taken.headers["waybill-reason"]


def test_consumer_that_goes_away_leaves_what_it_holds(
    client: Client, queue: str, way: Way, broker: Broker
) -> None:
    """Held deliveries are back in their queue when the consumer is gone."""
    gateway = CircuitBreaker(f"gateway-{next(_numbers)}", minimum_calls=1, open_for=60)
    _open(gateway)
    calls = []

    async def charge(_: Received) -> None:
        calls.append(1)

    way.consume(queue, charge, Policy(settle="return", breaker=gateway))
    for _ in range(3):
        publish(client, queue)
    idle(client)
    client.close()

    assert [] == calls
    assert 3 == len(broker.take_back(queue, 3))


def test_hand_pauses_the_consumer_and_lets_it_go_on(
    client: Client, queue: str, way: Way, gateway: CircuitBreaker
) -> None:
    """For maintenance of the dependency deliveries wait; listeners hear of it, and nothing is spent."""
    heard: list[tuple[str, str]] = []
    runs: list[int] = []

    async def charge(_: Received) -> None:
        runs.append(waybill.current().attempt)

    gateway.listen(lambda changed: heard.append((changed.before, changed.after)))
    gateway.force_open()
    way.consume(queue, charge, Policy(settle="return", breaker=gateway))
    publish(client, queue)
    idle(client)
    assert [] == runs

    gateway.reset()
    until(client, lambda: runs)
    idle(client)

    assert [1] == runs
    assert [("closed", "forced-open"), ("forced-open", "closed")] == heard


def test_slow_runs_open_the_breaker_of_the_policy(client: Client, queue: str, way: Way) -> None:
    """A dependency that answers too late pauses its consumers before anything fails."""
    gateway = CircuitBreaker(f"gateway-{next(_numbers)}", minimum_calls=2, slow_after=0.05, open_for=60)
    heard: list[str] = []
    handled: list[bytes] = []

    async def charge(message: Received) -> None:
        time.sleep(0.1)  # noqa: ASYNC251 - the handler is slow, in whatever colour its client has
        handled.append(message.body)

    gateway.listen(lambda changed: heard.append(changed.after))
    way.consume(queue, charge, Policy(settle="return", breaker=gateway))
    for body in (b"1", b"2"):
        publish(client, queue, body)
    until(client, lambda: heard)
    idle(client)

    assert ["open"] == heard
    assert [b"1", b"2"] == sorted(handled)


def test_answers_and_ignored_errors_do_not_pause_the_consumer(
    client: Client, queue: str, way: Way, broker: Broker
) -> None:
    """A message that is refused for a reason of its own is parked, and the dependency is not blamed."""
    gateway = CircuitBreaker(
        f"gateway-{next(_numbers)}", minimum_calls=2, failures=(Down, KeyError), ignored=(KeyError,)
    )

    async def charge(message: Received) -> None:
        raise KeyError if message.body == b"unknown" else ValueError

    way.consume(queue, charge, Policy(settle="return", breaker=gateway))
    for body in (b"unknown", b"invalid", b"unknown", b"invalid"):
        publish(client, queue, body)
    until(client, lambda: broker.left(queue + PARKED) == [4])
    idle(client)  # the acks follow the confirms

    assert "closed" == gateway.state
    assert 4 == len(broker.take(queue + PARKED))


def test_dependency_that_stays_down_puts_deliveries_off(
    client: Client, telemetry: Telemetry, queue: str, way: Way, broker: Broker
) -> None:
    """What was held for too long goes over the ladder and comes back, and its attempt stays what it is."""
    gateway = CircuitBreaker(f"gateway-{next(_numbers)}", minimum_calls=1, open_for=60)
    _open(gateway)
    calls = []

    async def charge(_: Received) -> None:
        calls.append(1)

    policy = Policy(settle="return", breaker=gateway, retry=AGAIN, hold_max=0.2)
    way.consume(queue, charge, policy)
    publish(client, queue, b"order")

    def deferred() -> int:
        return [facts(span)["waybill.outcome"] for span in telemetry.processes()].count("deferred")

    until(client, lambda: deferred() == 2)
    client.close()

    assert [] == calls
    taken = broker.wait(queue)
    assert (b"order", "1") == (taken.body, taken.headers["waybill-attempt"])
    assert {1} == {facts(span)["waybill.attempt"] for span in telemetry.processes()}
    assert {250} == {facts(span)["waybill.delay_ms"] for span in telemetry.publishes()[1:]}


def test_refused_call_in_a_handler_is_retried_when_it_is_worth_it(
    client: Client, queue: str, way: Way
) -> None:
    """A handler that meets an open breaker gets its message back after the open time, not before."""
    gateway = CircuitBreaker(f"gateway-{next(_numbers)}", minimum_calls=1, open_for=0.6, open_jitter=0)
    times = []
    refusals: list[float] = []

    async def charge(_: Received) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            with pytest.raises(Down), gateway:
                raise Down
        try:
            with gateway:
                pass
        except CircuitOpen as error:
            refusals.append(error.retry_after)
            raise

    retry = Retry(attempts=3, backoff=Backoff(first=0.25, ceiling=1.0, factor=4, jitter="none"))
    way.consume(queue, charge, Policy(settle="return", retry=retry))
    publish(client, queue)
    until(client, lambda: len(times) == 2)
    idle(client)

    (retry_after,) = refusals
    assert 0.5 < retry_after <= 0.6
    assert retry_after - 0.02 <= times[1] - times[0]


def test_refused_call_of_a_breaker_that_defers_costs_no_attempt(client: Client, queue: str, way: Way) -> None:
    """An outage that outlasts all attempts parks nothing: the message comes back until the call is let in."""
    gateway = CircuitBreaker(
        f"gateway-{next(_numbers)}", minimum_calls=1, open_for=0.3, open_jitter=0, probes=1, defer=True
    )
    attempts: list[int] = []
    charged: list[int] = []

    async def charge(_: Received) -> None:
        attempts.append(waybill.current().attempt)
        if len(attempts) == 1:
            _open(gateway)
        with gateway:
            charged.append(len(attempts))

    retry = Retry(attempts=1, backoff=Backoff(first=0.25, ceiling=0.5, jitter="none"))
    way.consume(queue, charge, Policy(settle="return", retry=retry))
    publish(client, queue)
    until(client, lambda: charged)
    idle(client)

    assert ([1, 1], [2]) == (attempts, charged)
    assert "closed" == gateway.state


def _open(gateway: CircuitBreaker) -> float:
    """Fail until *gateway* is open, and return when that was."""
    opened = time.monotonic()
    while gateway.state != "open":
        with pytest.raises(Down), gateway:
            raise Down
    return opened
