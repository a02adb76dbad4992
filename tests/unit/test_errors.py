"""What is raised: it says what happened and what to do, and survives being sent to another process."""

import copy
import pickle

import pytest

from otel_waybill.errors import (
    BrokerUnavailable,
    CircuitOpen,
    DeadlineExceeded,
    InvalidPolicy,
    InvalidRequest,
    ThreadBusy,
    TopologyMismatch,
    TopologyMissing,
    TopologyRefused,
    Unconfirmed,
    WaybillError,
    WrongThread,
)

DIFFERENT = (
    "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'orders.parked' in vhost '/': received "
    "the value 'reject-publish' of type 'longstr' but current is none"
)

ERRORS = {
    InvalidPolicy("need attempts >= 1, got 0"): "need attempts >= 1, got 0",
    InvalidRequest("need 0 < deadline, got -1"): "need 0 < deadline, got -1",
    DeadlineExceeded(0.5): (
        "the deadline of this work passed 0.500 s ago; stop, or continue inside detached()"
    ),
    CircuitOpen("payments", 3.21): "breaker 'payments' is open; try again in 3.2 s, call not run",
    TopologyMismatch("queue 'orders.parked'", "PRECONDITION_FAILED"): (
        "cannot declare queue 'orders.parked' for this policy: the broker answered 'PRECONDITION_FAILED'; "
        "delete the existing one once it is empty, or take it as it is with Policy(topology='passive')"
    ),
    TopologyMismatch("queue 'orders.parked'", DIFFERENT): (
        "cannot declare queue 'orders.parked' for this policy: its x-overflow is none and would have to be "
        "reject-publish; delete the existing one once it is empty, or take it as it is with "
        "Policy(topology='passive')"
    ),
    TopologyMissing("queue 'orders.dlq'", "NOT_FOUND"): (
        "this policy needs queue 'orders.dlq' and does not declare it: the broker answered 'NOT_FOUND'; "
        "declare it before consuming starts (docs/topology.md has the arguments)"
    ),
    TopologyRefused(
        "exchange 'a'", "ACCESS_REFUSED", ("configure on exchange 'a'", "read on exchange 'a'")
    ): (
        "not allowed to declare or check exchange 'a' for this policy: the broker answered 'ACCESS_REFUSED'; "
        "grant this user configure on exchange 'a', read on exchange 'a', or have it declared by another and "
        "use Policy(topology='passive'), or 'none' where checking is refused too"
    ),
    Unconfirmed("nack"): "the copy is not confirmed and routed: nack; the original stays unacknowledged",
    WrongThread("queue_declare"): (
        "'queue_declare' of a channel belongs to the thread of its connection; a handler under "
        "Policy(workers=...) may ack, nack, reject and publish, and hand the rest over by "
        "connection.add_callback_threadsafe"
    ),
    ThreadBusy(5.0): (
        "the connection's thread did not finish this publish within 5 s; keep its other callbacks short, or "
        "let the policy's confirm_timeout be longer"
    ),
    BrokerUnavailable(("AMQP_URL: not set",), ("apt-get install rabbitmq-server",)): (
        "no RabbitMQ for this run\n  - AMQP_URL: not set\nto get one:\n  apt-get install rabbitmq-server"
    ),
}
each = pytest.mark.parametrize(("error", "text"), ERRORS.items(), ids=lambda value: type(value).__name__)


@each
def test_says_what_happened(error: WaybillError, text: str) -> None:
    """The text of an error is a sentence that says what to do, with numbers and units."""
    assert text == str(error)


@each
def test_survives_pickle_and_copy(error: WaybillError, text: str) -> None:
    """An error that crosses a process pool is the same error, with the same facts."""
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):  # noqa: S301 - our own
        assert (type(error), error.args, vars(error), text) == (type(twin), twin.args, vars(twin), str(twin))


@pytest.mark.parametrize("error", ERRORS, ids=lambda value: type(value).__name__)
def test_one_base_catches_them_all(error: WaybillError) -> None:
    """Whoever wants to treat our errors apart from others needs one except clause."""
    assert isinstance(error, WaybillError)


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (DeadlineExceeded, TimeoutError),
        (InvalidPolicy, ValueError),
        (InvalidRequest, ValueError),
        (TopologyMismatch, InvalidPolicy),
        (TopologyMissing, InvalidPolicy),
        (TopologyRefused, InvalidPolicy),
        (ThreadBusy, TimeoutError),
        (WrongThread, AttributeError),
    ],
)
def test_is_also_what_python_calls_it(kind: type[Exception], base: type[Exception]) -> None:
    """Code that knows nothing of us catches a timeout as a timeout and a bad value as a bad value."""
    assert issubclass(kind, base)


def test_facts_are_attributes() -> None:
    """Nobody has to parse a text to know when to come back."""
    assert ("payments", 3.0) == (
        CircuitOpen("payments", 3.0).breaker,
        CircuitOpen("payments", 3.0).retry_after,
    )
    assert 0.5 == DeadlineExceeded(0.5).overdue
    for error in (TopologyMismatch("q", "r"), TopologyMissing("q", "r"), TopologyRefused("q", "r", ("n",))):
        assert ("q", "r") == (error.entity, error.reply)
    assert ("n",) == TopologyRefused("q", "r", ("n",)).needs
    assert "nack" == Unconfirmed("nack").reply
    assert "connection" == WrongThread("connection").attribute
    assert 5.0 == ThreadBusy(5.0).timeout
    assert (("a",), ("b",)) == (
        BrokerUnavailable(("a",), ("b",)).tried,
        BrokerUnavailable(("a",), ("b",)).remedies,
    )


def inequivalent(argument: str, entity: str, difference: str) -> str:
    """What RabbitMQ answers to a declaration that differs."""
    differing = f"inequivalent arg '{argument}' for {entity} in vhost '/'"
    return f"PRECONDITION_FAILED - {differing}: received {difference}"


@pytest.mark.parametrize(
    ("expected", "reply"),
    [
        (("x-overflow", "reject-publish", "none"), DIFFERENT),
        (
            ("durable", "true", "false"),
            inequivalent("durable", "queue 'p'", "'true' but current is 'false'"),
        ),
        (
            ("type", "fanout", "direct"),
            inequivalent("type", "exchange 'e'", "'fanout' but current is 'direct'"),
        ),
        (
            ("x-message-ttl", "250", "none"),
            inequivalent(
                "x-message-ttl", "queue 'p'", "the value '250' of type 'signedint' but current is none"
            ),
        ),
        (
            ("x-message-ttl", "6", "5"),
            inequivalent("x-message-ttl", "queue 'it's for: received'", "'6' but current is '5'"),
        ),
        (
            ("x-queue-type", "quorum", "the value 'clas..."),
            inequivalent("x-queue-type", "queue 'p'", "'quorum' but current is the value 'clas..."),
        ),
        ((None, None, None), "inequivalent arg 'x-overflow' for queue 'qqqqqqqqqqqqqqqqqqqqq..."),
        (
            (None, None, None),
            "PRECONDITION_FAILED - invalid arg 'x-delivery-limit' for queue 'p'",
        ),
        ((None, None, None), ""),
    ],
)
def test_mismatch_shows_the_difference(expected: tuple[str | None, ...], reply: str) -> None:
    """What RabbitMQ answers is taken apart, and where it was cut or says something else it is shown whole."""
    error = TopologyMismatch("queue 'p'", reply)
    assert expected == (error.argument, error.wanted, error.found)
    assert all(fact in str(error) for fact in expected if fact is not None)
