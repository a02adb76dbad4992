"""The permissions that docs/topology.md lists: with them everything works, without any one of them not."""

import os
import re
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from conformance.clients import registry
from conformance.protocol import Received, until
from otel_waybill import Backoff, Outcome, Policy, Result, Retry, TopologyRefused, names
from otel_waybill.clients.shared.topology import request
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.topology import plan
from otel_waybill.testing.broker import installation, node

TOPOLOGY = (Path(__file__).parents[2] / "docs/topology.md").read_text()
RETRY = Retry(attempts=2, backoff=Backoff(first=0.2, ceiling=0.2, jitter="none"))
"""One wait of 250 ms."""
DLQ = "orders.dlq"
POLICIES = {
    "declare": Policy(retry=RETRY, hold_max=0.001),
    f'declare, parking="{DLQ}"': Policy(retry=RETRY, hold_max=0.001, parking=DLQ),
    "passive": Policy(retry=RETRY, hold_max=0.001, topology="passive"),
    "none": Policy(retry=RETRY, hold_max=0.001, topology="none"),
}
MODES = list(POLICIES)
"""In the order of the columns of the table, and of the commands."""
KINDS = ("configure", "write", "read")
CHECKING = (4, 2, 6)
"""The first RabbitMQ in which a passive declaration takes rights."""


class Right(NamedTuple):
    """One right to one exchange or queue.

    Attributes:
        kind: configure, write or read.
        name: of the exchange and queue.
        lately: whether brokers ask for it only since `CHECKING`.
    """

    kind: str
    name: str
    lately: bool = False


def documented(mode: str) -> list[Right]:
    """The rights that the table has for *mode*."""
    rows = re.findall(r"^\|.*\|$", TOPOLOGY[TOPOLOGY.index("## Permissions") :], re.MULTILINE)[2:]
    cells = [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]
    return [
        Right(kind.removesuffix(" (1)"), row[0].replace("<ms>", "250"), lately=kind.endswith(" (1)"))
        for row in cells
        for kind in filter(None, row[1 + MODES.index(mode)].split(", "))
    ]


TABLE = [(mode, right) for mode in POLICIES for right in documented(mode)]


def command(mode: str) -> list[str]:
    """The arguments of the command that the document has for *mode*."""
    commands = re.findall(r"^rabbitmqctl set_permissions shop '(.*)' '(.*)' '(.*)'$", TOPOLOGY, re.MULTILINE)
    return list(commands[MODES.index(mode)])


class Rabbit:
    """A node of our own, with a user `shop` whose rights can be chosen, and an administrator."""

    def __init__(self, running: node.Node, version: str) -> None:
        self._node = running
        self.checking = tuple(map(int, version.split("."))) >= CHECKING
        self.url = f"amqp://shop:secret@127.0.0.1:{running.port}/"
        running.ctl("add_user", "shop", "secret")
        self._admin = pika.BlockingConnection(pika.URLParameters(running.url))

    def allow(self, configure: str, write: str, read: str) -> None:
        """Let the user do that, and nothing else."""
        self._node.ctl("set_permissions", "shop", configure, write, read)

    def reset(self, policy: Policy) -> BlockingChannel:
        """Leave on the broker what there is before *policy* first consumes `orders`, and a message."""
        spec, channel = policy.terms.spec, self._admin.channel()
        declared = plan("orders", PolicySpec(retry=RETRY))
        for queue in ("orders", DLQ, *(queue.name for queue in declared.queues)):
            channel.queue_delete(queue)
        for exchange in declared.exchanges:
            channel.exchange_delete(exchange.name)
        for queue in ("orders", DLQ):
            channel.queue_declare(queue, durable=True)
        if spec.topology != "declare":
            for step in declared.steps:
                request(channel, step)
        channel.basic_publish("", "orders", b"order")
        return channel

    def close(self) -> None:
        """Close the connection of the administrator."""
        self._admin.close()


@pytest.fixture(scope="module")
def rabbit() -> Iterator[Rabbit]:
    """One for all tests here: its users are nobody else's business."""
    path = os.environ["PATH"]
    installed = installation.find(path)
    with node.start(installed, path) as running, closing(Rabbit(running, installed.version)) as rabbit:
        yield rabbit


def work(url: str, policy: Policy) -> list[Outcome]:
    """Handle the message in `orders` until it stays nowhere, or comes back, or something is refused."""

    def fail(*_: object) -> None:
        raise ArithmeticError

    outcomes: list[Outcome] = []
    with closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        while not outcomes or outcomes[-1].result is Result.RETRIED:
            method, properties, body = channel.basic_get("orders")
            if method is None or properties is None or body is None:
                connection.sleep(0.01)
                continue
            outcomes.append(policy.run(channel, method, properties, body, fail, queue="orders"))
    return outcomes


@pytest.mark.parametrize("name", list(registry.ALL))
@pytest.mark.parametrize("mode", list(POLICIES))
def test_commands_of_the_document_suffice(rabbit: Rabbit, name: str, mode: str) -> None:
    """With what the document tells an administrator to type, a message is retried and parked."""
    policy = POLICIES[mode]
    admin = rabbit.reset(policy)
    rabbit.allow(*command(mode))
    attempts = []

    async def fail(message: Received) -> None:
        attempts.append(message.body)
        raise ArithmeticError

    parked: list[bytes] = []

    def taken() -> list[bytes]:
        with suppress(ChannelClosedByBroker):
            method, _, body = admin.basic_get(policy.terms.spec.parking or "orders.parked", auto_ack=True)
            parked.extend([body] if method and body else [])
        return parked

    with closing(registry.ALL[name](rabbit.url)) as client:
        client.consume("orders", policy.wrap(client.native(fail), queue="orders"))
        until(client, lambda: len(attempts) == 2)
        until(client, taken)
        assert [] == client.raised

    assert {b"order"} == {*attempts}
    assert [b"order"] == parked


@pytest.mark.parametrize("mode", list(POLICIES))
def test_rights_in_the_table_suffice(rabbit: Rabbit, mode: str) -> None:
    """The table lists all that it takes."""
    policy = POLICIES[mode]
    rabbit.reset(policy)
    rabbit.allow(*patterns(documented(mode)))

    assert [Result.RETRIED, Result.PARKED] == [outcome.result for outcome in work(rabbit.url, policy)]


@pytest.mark.parametrize(
    ("mode", "missing"), TABLE, ids=[f"{mode}-{right.kind}-{right.name}" for mode, right in TABLE]
)
def test_each_right_in_the_table_is_needed(rabbit: Rabbit, mode: str, missing: Right) -> None:
    """Without any one of them something is refused, in our words where we asked, and nothing is lost."""
    policy = POLICIES[mode]
    admin = rabbit.reset(policy)
    rabbit.allow(*patterns([right for right in documented(mode) if right != missing]))

    if missing == Right("read", "orders"):
        with pytest.raises(ChannelClosedByBroker, match="orders"):
            work(rabbit.url, policy)
    elif missing.lately and not rabbit.checking:
        assert Result.PARKED is work(rabbit.url, policy)[-1].result
        return
    elif policy.terms.spec.topology == "declare" and missing != Right("write", names.PARKING_EXCHANGE):
        with pytest.raises(TopologyRefused) as caught:
            work(rabbit.url, policy)
        assert missing.name in str(caught.value.reply)
        assert any(missing.kind in need and f"'{missing.name}'" in need for need in caught.value.needs)
    elif policy.terms.spec.topology == "passive" and rabbit.checking:
        with pytest.raises(TopologyRefused, match=f"configure, write or read on .*'{missing.name}'"):
            work(rabbit.url, policy)
    else:
        assert Result.GIVEN_BACK is work(rabbit.url, policy)[-1].result
    assert b"order" == admin.basic_get("orders", auto_ack=True)[2]


@pytest.mark.parametrize("name", registry.WAITING)
def test_refusal_is_in_our_words_on_every_client(rabbit: Rabbit, name: str) -> None:
    """Whichever client declares, its consumer is told which right is missing before it starts."""
    policy = POLICIES["declare"]
    rabbit.reset(policy)
    rabbit.allow("^$", "^.*$", "^.*$")

    async def ignore(_: Received) -> None:
        """Ignore it."""

    with closing(registry.ALL[name](rabbit.url)) as client:
        client.consume("orders", policy.wrap(client.native(ignore), queue="orders"))
        until(client, lambda: client.raised)
        error, *_ = client.raised

    assert isinstance(error, TopologyRefused)
    assert ("configure on exchange 'waybill.unrouted.v1'",) == error.needs
    assert "topology='passive'" in str(error)


@pytest.mark.parametrize("name", sorted(registry.ALL.keys() - registry.WAITING))
def test_refusal_is_in_our_words_where_consuming_does_not_wait(
    rabbit: Rabbit, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """There the channel is closed, and the log says which right is missing."""
    policy = POLICIES["declare"]
    rabbit.reset(policy)
    rabbit.allow("^$", "^.*$", "^.*$")

    async def ignore(_: Received) -> None:
        """Ignore it."""

    with closing(registry.ALL[name](rabbit.url)) as client:
        client.consume("orders", policy.wrap(client.native(ignore), queue="orders"))
        until(client, lambda: "grant this user configure on exchange 'waybill.unrouted.v1'" in caplog.text)


def patterns(rights: list[Right]) -> list[str]:
    """What to type for exactly these *rights*."""
    listed = [[re.escape(right.name) for right in rights if right.kind == kind] for kind in KINDS]
    return [f"^({'|'.join(each)})$" if each else "^$" for each in listed]
