"""Deliveries in memory: the same decisions as in production, without a broker and without waiting."""

import asyncio
from collections.abc import Callable

import pytest

import otel_waybill as waybill
from otel_waybill.core.delivery import Reason, Result
from otel_waybill.core.events import BreakerChanged, Ended, RunStarted
from otel_waybill.testing import Journey, ManualClock, Received, RecordingSink, Sent, deliver, deliver_async

Deliver = Callable[..., Journey]
EMPTY = Sent()
RETRY = waybill.Retry(attempts=3, backoff=waybill.Backoff(jitter="none"))


def awaited(
    policy: waybill.Policy, handler: Callable[[Received], object], message: Sent = EMPTY, **how: object
) -> Journey:
    """Deliver to an ``async def`` that does what *handler* does."""

    async def handle(received: Received) -> None:
        handler(received)

    return asyncio.run(deliver_async(policy, handle, message, **how))  # type: ignore[arg-type]  # as given


both = pytest.mark.parametrize("delivered", [deliver, awaited])


def refuse(_: Received) -> None:
    """Fail."""
    msg = "no such order"
    raise ValueError(msg)


@both
def test_handled_message_is_at_its_end(delivered: Deliver) -> None:
    """The handler is given what was sent."""
    seen: list[Received] = []
    message = Sent(body=b"1", headers={"tenant": "acme"}, exchange="shop", routing_key="new", message_id="7")
    journey = delivered(waybill.Policy(), seen.append, message)
    (received,) = seen
    assert Result.HANDLED is journey.outcome.result
    assert (b"1", {"tenant": "acme"}, "orders") == (received.body, received.headers, received.queue)
    assert ("shop", "new", "7") == (received.exchange, received.routing_key, received.message_id)
    assert ((), {}, None) == (journey.waits, journey.headers, journey.reason)


@both
def test_failed_message_is_retried_and_parked(delivered: Deliver) -> None:
    """Each attempt sees the original, and the waits of the ladder move the clock instead of the test."""
    clock, seen = ManualClock(), []

    def handle(received: Received) -> None:
        seen.append((waybill.current().attempt, received.headers["tenant"], received.exchange, clock()))
        refuse(received)

    sent = Sent(headers={"tenant": "acme"}, exchange="shop")
    journey = delivered(waybill.Policy(retry=RETRY), handle, sent, clock=clock)
    assert [(1, "acme", "shop", 0.0), (2, "acme", "shop", 1.0), (3, "acme", "shop", 3.0)] == seen
    assert [Result.RETRIED, Result.RETRIED, Result.PARKED] == [each.result for each in journey.outcomes]
    assert ((1.0, 2.0), Reason.MAX_ATTEMPTS) == (journey.waits, journey.reason)
    assert "no such order" == journey.headers["waybill-exception-message"]


@both
def test_deadline_is_what_the_handler_sees(delivered: Deliver) -> None:
    """What is left shrinks with the manual clock, and work that comes too late is parked."""
    left: list[float | None] = []

    def handle(received: Received) -> None:
        left.append(waybill.remaining())
        refuse(received)

    journey = delivered(waybill.Policy(retry=RETRY, skew_tolerance=0.0), handle, Sent(deadline=2.5))
    assert [2.5, 1.5] == [pytest.approx(each, abs=0.5) for each in left]
    assert Reason.DEADLINE_BEFORE_RETRY is journey.reason
    assert Reason.DEADLINE is delivered(waybill.Policy(), refuse, Sent(deadline=-5.0)).reason


@both
@pytest.mark.parametrize(("settle", "result"), [("ack", Result.HANDLED), ("nack", Result.RETRIED)])
def test_handler_may_settle_by_itself(delivered: Deliver, settle: str, result: Result) -> None:
    """Its ack is success and its nack a failure, as with a client; what it says later changes nothing."""

    def handle(received: Received) -> None:
        getattr(received, settle)()
        received.ack()
        received.nack()

    journey = delivered(waybill.Policy(retry=RETRY, settle="handler"), handle)
    assert result is journey.outcomes[0].result


@both
def test_substitute_is_called_without_a_deadline(delivered: Deliver) -> None:
    """A fallback gets the same message."""
    seen: list[tuple[bytes, float | None]] = []

    def instead(received: Received) -> None:
        seen.append((received.body, waybill.remaining()))

    policy = waybill.Policy(fallback=instead, on_expired="fallback")
    assert Result.HANDLED is delivered(policy, refuse, Sent(body=b"late", deadline=-5.0)).outcome.result
    assert [(b"late", None)] == seen


@both
def test_open_breaker_holds_until_the_clock_has_moved(delivered: Deliver) -> None:
    """A breaker and its policy share the clock, and events tell what happened."""
    clock = ManualClock()
    payments = waybill.CircuitBreaker("in-memory", minimum_calls=1, open_jitter=0.0, clock=clock)
    policy = waybill.Policy(retry=RETRY, breaker=payments)
    with RecordingSink() as sink:
        delivered(policy, refuse, clock=clock)
    assert "open" == payments.state
    assert 3 == len(sink.of(RunStarted)) == len(sink.of(Ended))
    assert ["open", "half-open"] == [change.after for change in sink.of(BreakerChanged)][:2]
    events = len(sink.events)
    delivered(policy, refuse, clock=clock)
    assert events == len(sink.events), "the sink listens only inside its block"


def test_deadline_stops_a_coroutine() -> None:
    """As in production: the handler is cancelled when its time is up."""

    async def handle(_: Received) -> None:
        await asyncio.Event().wait()

    policy = waybill.Policy(skew_tolerance=0.0)
    journey = asyncio.run(deliver_async(policy, handle, Sent(deadline=0.01)))
    assert Reason.DEADLINE is journey.reason
    assert isinstance(journey.outcome.error, waybill.DeadlineExceeded)


def test_cancelled_test_is_cancelled() -> None:
    """A test that is stopped does not go on."""

    async def story() -> None:
        async def handle(_: Received) -> None:
            await asyncio.Event().wait()

        task = asyncio.create_task(deliver_async(waybill.Policy(), handle))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())


@both
def test_endless_retrying_is_told(delivered: Deliver) -> None:
    """A policy that never gives up would have its test never end."""
    policy = waybill.Policy(retry=waybill.Retry(attempts=1_000_000))
    with pytest.raises(RuntimeError, match="has come back 1000 times"):
        delivered(policy, refuse)


def test_clock_does_not_run_backwards() -> None:
    """Whoever measures with it may rely on that."""
    clock = ManualClock(5.0)
    clock.advance(0.0)
    for seconds in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="seconds >= 0"):
            clock.advance(seconds)
    assert 5.0 == clock()
