"""In place of the handler: what becomes of expired messages, and of those that nothing can handle."""

import time

import otel_waybill as waybill
from conformance.broker import Broker, wait_for_parked
from conformance.protocol import Client, Properties, Received, idle, until
from conformance.telemetry import Telemetry, facts, identity, parent
from conformance.ways import Way
from otel_waybill import Backoff, Policy, Retry, names

QUICK = Retry(attempts=2, backoff=Backoff(first=0.2, ceiling=0.2, jitter="none"))


class Refused(Exception):  # noqa: N818 - what a payment is
    """Some failure of a handler."""


class Broken(Exception):  # noqa: N818 - what a substitute is
    """Some failure of a substitute."""


class Both:
    """A handler that always fails and its substitute, which may, for one client."""

    def __init__(self, client: Client, *, broken: bool = False) -> None:
        self.handled: list[bytes] = []
        self.substituted: list[tuple[bytes, int, float | None]] = []
        self.broken = broken
        self.fallback = client.native(self.substitute)

    async def handle(self, message: Received) -> None:
        """Fail."""
        self.handled.append(message.body)
        raise Refused

    async def substitute(self, message: Received) -> None:
        """Take note."""
        self.substituted.append((message.body, waybill.current().attempt, waybill.remaining()))
        if self.broken:
            raise Broken


def expired(broker: Broker, queue: str) -> None:
    """Publish a message whose deadline passed long ago."""
    headers: dict[str, object] = {names.HEADER_DEADLINE: str(round((time.time() - 60) * 1000))}
    broker.publish(queue, b"late", properties=Properties(headers=headers))


def test_expired_message_runs_without_its_deadline(
    client: Client, telemetry: Telemetry, queue: str, any_way: Way, broker: Broker
) -> None:
    """Late is better than never: the handler runs, and nothing reminds it of the deadline."""
    seen = []

    async def handle(_: Received) -> None:
        seen.append(waybill.remaining())
        waybill.check()

    any_way.consume(queue, handle, Policy(settle="return", on_expired="run"))
    expired(broker, queue)
    until(client, lambda: seen and (not any_way.traced or telemetry.processes()))
    idle(client)

    assert [None] == seen
    if any_way.traced:
        assert ["handled"] == [facts(span)["waybill.outcome"] for span in telemetry.processes()]


def test_expired_message_is_dropped_when_told_so(
    client: Client, telemetry: Telemetry, queue: str, any_way: Way, broker: Broker
) -> None:
    """It is acknowledged unhandled, and its span says that it was dropped."""
    both = Both(client)
    any_way.consume(queue, both.handle, Policy(settle="return", on_expired="ack"))
    expired(broker, queue)
    if any_way.traced:
        until(client, telemetry.processes)
    idle(client)
    client.close()

    assert [] == both.handled
    assert [0] == broker.left(queue)
    if any_way.traced:
        (span,) = telemetry.processes()
        assert ("dropped", 1) == (facts(span)["waybill.outcome"], facts(span)["waybill.attempt"])
        (ack,) = telemetry.spans("ack")
        assert identity(span).span_id == parent(ack)


def test_expired_message_goes_to_the_substitute(
    client: Client, telemetry: Telemetry, queue: str, any_way: Way, broker: Broker
) -> None:
    """The substitute is called like the handler, once and without a deadline; the handler is not."""
    both = Both(client)
    policy = Policy(settle="return", on_expired="fallback", fallback=both.fallback)
    any_way.consume(queue, both.handle, policy)
    expired(broker, queue)
    until(client, lambda: both.substituted)
    idle(client)

    assert ([], [(b"late", 1, None)]) == (both.handled, both.substituted)
    if any_way.traced:
        (span,) = telemetry.processes()
        assert {"waybill.outcome": "handled", "waybill.fallback": True}.items() <= facts(span).items()


def test_substitute_is_called_when_nothing_else_helps(
    client: Client, telemetry: Telemetry, queue: str, any_way: Way, broker: Broker
) -> None:
    """After the last attempt, on the same delivery; the message is then handled and not parked."""
    both = Both(client)
    any_way.consume(queue, both.handle, Policy(settle="return", retry=QUICK, fallback=both.fallback))
    broker.publish(queue, b"order")
    until(client, lambda: both.substituted)
    idle(client)

    assert ([b"order", b"order"], [(b"order", 2, None)]) == (both.handled, both.substituted)
    if any_way.traced:
        first, second = telemetry.processes()
        assert ("retried", "handled") == (facts(first)["waybill.outcome"], facts(second)["waybill.outcome"])
        assert (None, True) == (facts(first).get("waybill.fallback"), facts(second).get("waybill.fallback"))
        assert "Refused" == facts(second)["error.type"]


def test_substitute_that_fails_parks_with_the_first_reason(
    client: Client, telemetry: Telemetry, queue: str, any_way: Way, broker: Broker
) -> None:
    """Whoever looks at the parked message sees why the handler failed."""
    both = Both(client, broken=True)
    any_way.consume(queue, both.handle, Policy(settle="return", retry=QUICK, fallback=both.fallback))
    broker.publish(queue, b"order")
    (taken,) = wait_for_parked(client, broker, queue)

    assert 1 == len(both.substituted)
    assert ("max-attempts", "Refused", "2") == (
        taken.headers[names.HEADER_REASON],
        taken.headers[names.HEADER_EXCEPTION_TYPE],
        taken.headers[names.HEADER_ATTEMPT],
    )
    if any_way.traced:
        span = telemetry.processes()[-1]
        assert {"waybill.outcome": "parked", "waybill.fallback": True}.items() <= facts(span).items()
        assert {"Refused", "Broken"} == {
            str(dict(event.attributes or {})["exception.type"]).rpartition(".")[2]
            for event in span.events
            if event.name == "exception"
        }


def test_expired_message_is_parked_when_the_substitute_fails(
    client: Client, queue: str, way: Way, broker: Broker
) -> None:
    """The reason is the deadline, and there was no exception of the handler's."""
    both = Both(client, broken=True)
    way.consume(
        queue,
        both.handle,
        Policy(settle="return", retry=QUICK, on_expired="fallback", fallback=both.fallback),
    )
    expired(broker, queue)
    (taken,) = wait_for_parked(client, broker, queue)

    assert "deadline" == taken.headers[names.HEADER_REASON]
    assert names.HEADER_EXCEPTION_TYPE not in taken.headers
