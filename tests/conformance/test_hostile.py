"""Headers are whatever somebody wrote: nothing in them keeps a message from its handler."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from random import Random

import pytest

import otel_waybill as waybill
from conformance.broker import Broker
from conformance.protocol import PATIENCE, Client, Properties, Received, until
from conformance.telemetry import Telemetry
from conformance.ways import UNINSTRUMENTED, WRAP, Manner
from otel_waybill import Backoff, Policy, Retry, names

ATTACKED = sorted(
    {
        names.HEADER_TRACEPARENT,
        names.HEADER_TRACESTATE,
        names.HEADER_BAGGAGE,
        names.HEADER_DELIVERY_COUNT,
        "x-death",
        *(
            value
            for key, value in vars(names).items()
            if key.startswith("HEADER_") and value.startswith("waybill-")
        ),
    }
    - {names.HEADER_PREFIX}
)
NONSENSE: Sequence[object] = (
    None,
    True,
    False,
    -1,
    2**62,
    -1.5,
    Decimal("1.5"),
    datetime(1970, 1, 1, tzinfo=UTC),
    b"bytes",
    b"\xff\xfe\x00",
    bytearray(b"\x00"),
    {},
    {"nested": {"deep": [1, {"deeper": None}]}},
    [],
    [[], {}, "text"],
    "",
    " ",
    "text",
    "-1",
    "1e9",
    "+5",
    "9" * 40,
    "٣",
    "a\r\nb: c",
    "\x00",
    "é" * 200,
    "x" * 2_000,
    "00-" + "0" * 32 + "-" + "0" * 16 + "-01",
    "ff-" + "a" * 32 + "-" + "b" * 16 + "-01",
    "a=" + "b" * 2_000 + ",c",
    "%FF=%FE;;=,,=",
)
HUGE: Sequence[object] = ("x" * 100_000, b"\xff" * 100_000, " " * 100_000, ["x" * 1_000] * 90)
POLICY = Policy(retry=Retry(attempts=2, backoff=Backoff(first=0.25, ceiling=0.25)), settle="return")


class Handling:
    """A handler that counts, and uses all that it is offered."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, message: Received) -> None:
        """Handle a message like a program that looks at everything."""
        assert isinstance(waybill.current().attempt, int)
        assert waybill.remaining() is None or isinstance(waybill.remaining(), float)
        assert isinstance(message.exchange, str)
        with waybill.request(id="123456", retry_limit=3):
            waybill.current()
        await message.ack()
        self.bodies.append(message.body)


@pytest.fixture(params=[None, WRAP, UNINSTRUMENTED], ids=["no policy", "wrap", "wrap-uninstrumented"])
def handling(
    request: pytest.FixtureRequest, client: Client, telemetry: Telemetry, queue: str, broker: Broker
) -> Handling:
    """A consumer in each way that decodes headers differently, with its way back bound."""
    handling = Handling()
    # RabbitMQ passes 32 acks at a time to a quorum queue; those that wait are lost when their channel ends.
    client.prefetch(16)
    if isinstance(request.param, Manner):
        request.param.consume(client, telemetry, queue, handling, POLICY)
    else:
        telemetry.instrument()
        client.consume(queue, client.native(handling))
    # A consumer that is not instrumented declares with its first message.
    broker.publish(queue, b"first")
    until(client, lambda: handling.bodies)
    handling.bodies.clear()
    return handling


@pytest.mark.parametrize("exchange", ["", names.RETURN_EXCHANGE], ids=["direct", "return exchange"])
def test_no_nonsense_reaches_the_handler_as_an_exception(
    client: Client, queue: str, broker: Broker, handling: Handling, exchange: str
) -> None:
    """Whatever headers hold, the handler is called once and its message is acknowledged.

    That goes for strangers, too, who may publish where only retries should come from.
    """
    broker.bind_return(queue)
    bodies = [str(n).encode() for n in range(len(NONSENSE))]
    for body, value in zip(bodies, NONSENSE, strict=True):
        headers = dict.fromkeys(ATTACKED, value)
        broker.publish(queue, body, exchange, properties=Properties(headers=headers))
    until_handled(client, handling, bodies)


def test_nor_does_one_huge_header(client: Client, queue: str, broker: Broker, handling: Handling) -> None:
    """A header that fills a frame is read as absent, whichever it is."""
    bodies = []
    for name in ATTACKED:
        for n, value in enumerate(HUGE):
            bodies.append(f"{name} {n}".encode())
            broker.publish(queue, bodies[-1], properties=Properties(headers={name: value}))
    until_handled(client, handling, bodies)


def test_nor_do_combinations(client: Client, queue: str, broker: Broker, handling: Handling) -> None:
    """Several kinds of nonsense at once change nothing: each message is handled once."""
    dice = Random(42)  # noqa: S311 - the same headers in each run
    bodies = [str(n).encode() for n in range(200)]
    for body in bodies:
        attacked = dice.sample(ATTACKED, dice.randint(2, 8))
        headers = {name: dice.choice(NONSENSE) for name in attacked}
        broker.publish(queue, body, properties=Properties(headers=headers))
    until_handled(client, handling, bodies)


def until_handled(client: Client, handling: Handling, bodies: list[bytes]) -> None:
    """Let *client* work until its handler has had each of *bodies*, and had it once."""
    limit = time.monotonic() + PATIENCE
    while len(handling.bodies) < len(bodies) and time.monotonic() < limit:
        client.pump()
    assert sorted(bodies) == sorted(handling.bodies)
