"""Span names and attributes, as tables against the semantic conventions."""

import asyncio
import concurrent.futures
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind

from otel_waybill.telemetry.semconv import (
    ACK,
    NACK,
    PROCESS,
    PUBLISH,
    RECEIVE,
    REJECT,
    Destination,
    Endpoint,
    Operation,
    consume_destination,
    error_type,
    publish_destination,
    shape,
)

BROKER = Endpoint("rabbit.example", 5672, "10.1.2.80", 5672)
REPLY_QUEUE = "amq.gen-JzTY20BRgKO-HjmUJj0wLg"


@pytest.mark.parametrize(
    ("expected", "exchange", "routing_key"),
    [
        ("shop:order.new", "shop", "order.new"),
        ("orders", "", "orders"),
        ("shop", "shop", ""),
        ("amq.default", "", ""),
        ("amq.topic:a.b", "amq.topic", "a.b"),
    ],
)
def test_the_destination_of_a_publish(expected: str, exchange: str, routing_key: str) -> None:
    """Exchange and routing key, or whichever is there."""
    destination = publish_destination(exchange, routing_key)

    assert (expected, routing_key) == (destination.name, destination.routing_key)


@pytest.mark.parametrize(
    ("expected", "exchange", "routing_key", "queue"),
    [
        ("shop:order.new:orders", "shop", "order.new", "orders"),
        ("orders", "", "orders", "orders"),
        ("shop:orders", "shop", "orders", "orders"),
        ("shop:orders", "shop", "", "orders"),
        ("order.new:orders", "", "order.new", "orders"),
        ("orders", "", "", "orders"),
        ("shop:order.new", "shop", "order.new", None),
        ("shop", "shop", "", ""),
        ("amq.default", "", "", None),
    ],
)
def test_the_destination_of_a_delivery(
    expected: str, exchange: str, routing_key: str, queue: str | None
) -> None:
    """Exchange, routing key and queue, without what is empty or said twice."""
    assert expected == consume_destination(exchange, routing_key, queue).name


@pytest.mark.parametrize(
    ("expected", "destination"),
    [
        (True, publish_destination("", REPLY_QUEUE)),
        (True, consume_destination("news", "", REPLY_QUEUE)),
        (True, consume_destination("news", "sport", REPLY_QUEUE)),
        (True, consume_destination("", "amq.rabbitmq.reply-to.g1h2AA", "amq.rabbitmq.reply-to")),
        (False, publish_destination("news", "sport")),
        (False, consume_destination("news", "sport", "readers")),
    ],
)
def test_one_generated_part_makes_a_destination_anonymous(expected: bool, destination: Destination) -> None:  # noqa: FBT001 - a table
    """The composite name would have no bound, whichever part it is."""
    assert expected is destination.anonymous


@pytest.mark.parametrize(
    ("expected", "operation", "destination", "endpoint"),
    [
        ("publish orders", PUBLISH, publish_destination("", "orders"), BROKER),
        ("publish shop:order.new", PUBLISH, publish_destination("shop", "order.new"), BROKER),
        ("publish", PUBLISH, publish_destination("", REPLY_QUEUE), BROKER),
        ("process orders", PROCESS, consume_destination("", "orders", "orders"), BROKER),
        ("process", PROCESS, consume_destination("news", "sport", REPLY_QUEUE), None),
        ("receive orders", RECEIVE, consume_destination("", "orders", "orders"), None),
        ("ack orders", ACK, consume_destination("", "orders", "orders"), BROKER),
        ("nack orders", NACK, consume_destination("", "orders", "orders"), BROKER),
        ("reject orders", REJECT, consume_destination("", "orders", "orders"), BROKER),
        ("ack rabbit.example:5672", ACK, None, BROKER),
        ("ack rabbit.example", ACK, None, Endpoint("rabbit.example")),
        ("ack", ACK, None, None),
    ],
)
def test_the_name_of_a_span(
    expected: str, operation: Operation, destination: Destination | None, endpoint: Endpoint | None
) -> None:
    """Operation first, then the destination if its name has a bound; the broker only where there is none."""
    assert expected == shape(operation, destination, endpoint).name


@pytest.mark.parametrize(
    ("expected", "operation"),
    [
        (("publish", "send", SpanKind.PRODUCER), PUBLISH),
        (("receive", "receive", SpanKind.CLIENT), RECEIVE),
        (("process", "process", SpanKind.CONSUMER), PROCESS),
        (("ack", "settle", SpanKind.CLIENT), ACK),
        (("nack", "settle", SpanKind.CLIENT), NACK),
        (("reject", "settle", SpanKind.CLIENT), REJECT),
    ],
)
def test_operations_have_the_type_and_kind_of_the_conventions(
    expected: tuple[str, str, SpanKind], operation: Operation
) -> None:
    """The table of operation types in messaging-spans.md."""
    assert expected == (operation.name, operation.type, operation.kind)
    assert operation is shape(operation).operation


COMMON = {
    "messaging.system": "rabbitmq",
    "server.address": "rabbit.example",
    "server.port": 5672,
}
PEER = {"network.peer.address": "10.1.2.80", "network.peer.port": 5672}


def test_the_attributes_of_a_publish() -> None:
    """Everything that is required, conditional or recommended, at the start of the span."""
    sent = shape(PUBLISH, publish_destination("shop", "order.new"), BROKER)

    assert {
        **COMMON,
        **PEER,
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "shop:order.new",
        "messaging.rabbitmq.destination.routing_key": "order.new",
        "messaging.message.id": "m1",
        "messaging.message.conversation_id": "c1",
    } == sent.attributes(message_id="m1", conversation_id="c1")


def test_the_attributes_of_a_receive() -> None:
    """A receive asks the broker, so the peer is told."""
    received = shape(RECEIVE, consume_destination("", "orders", "orders"), BROKER)

    assert {
        **COMMON,
        **PEER,
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
        "messaging.destination.name": "orders",
        "messaging.rabbitmq.destination.routing_key": "orders",
        "messaging.rabbitmq.message.delivery_tag": 7,
    } == received.attributes(delivery_tag=7)


def test_the_attributes_of_a_process() -> None:
    """Processing is the program's own work: no network peer."""
    processed = shape(PROCESS, consume_destination("news", "sport", REPLY_QUEUE), BROKER)

    assert {
        **COMMON,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": f"news:sport:{REPLY_QUEUE}",
        "messaging.destination.anonymous": True,
        "messaging.rabbitmq.destination.routing_key": "sport",
        "messaging.rabbitmq.message.delivery_tag": 7,
        "messaging.message.id": "m1",
    } == processed.attributes(delivery_tag=7, message_id="m1")


def test_the_attributes_of_a_settlement() -> None:
    """Neither routing key nor anonymity are told; how many messages only when it could be several."""
    settled = shape(NACK, consume_destination("", REPLY_QUEUE, REPLY_QUEUE), BROKER)

    assert {
        **COMMON,
        **PEER,
        "messaging.operation.name": "nack",
        "messaging.operation.type": "settle",
        "messaging.destination.name": REPLY_QUEUE,
        "messaging.rabbitmq.message.delivery_tag": 7,
        "messaging.batch.message_count": 3,
    } == settled.attributes(delivery_tag=7, batch=3)


def test_what_is_not_known_is_not_told() -> None:
    """No attribute is ever None or empty."""
    assert {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "shop",
        "server.address": "rabbit.example",
    } == shape(PUBLISH, publish_destination("shop", ""), Endpoint("rabbit.example")).attributes(message_id="")


@pytest.mark.parametrize("hostile", [None, "", b"\xff", 7, True, ["x"], {"x": 1}, uuid.UUID(int=1)])
def test_an_id_that_is_not_text_is_left_out(hostile: object) -> None:
    """The SDK would refuse it with a warning per message."""
    attributes = shape(PUBLISH).attributes(message_id=hostile, conversation_id=hostile)

    assert {"messaging.system", "messaging.operation.name", "messaging.operation.type"} == set(attributes)


def test_a_name_that_is_not_utf8_is_still_a_name() -> None:
    """Such a routing key comes out of pika as bytes; the delivery is traced all the same."""
    hostile: str = b"caf\xe9"  # type: ignore[assignment]  # what pika really does

    assert Destination("shop:caf\\xe9", "caf\\xe9", anonymous=False) == publish_destination("shop", hostile)


@pytest.mark.parametrize(
    ("expected", "destination"),
    [
        ({"messaging.destination.name": "orders"}, publish_destination("", "orders")),
        ({}, publish_destination("", REPLY_QUEUE)),
        ({}, None),
    ],
)
def test_metrics_have_no_attribute_without_bound(
    expected: dict[str, str], destination: Destination | None
) -> None:
    """A generated destination would make one time series for each reply queue."""
    operation = {"messaging.operation.name": "publish"}

    assert {**COMMON, **operation, **expected} == shape(PUBLISH, destination, BROKER).measured


def test_one_span_cannot_change_the_attributes_of_the_next() -> None:
    """What is remembered is read-only, and each span gets a dict of its own."""
    sent = shape(PUBLISH, publish_destination("", "orders"), BROKER)
    sent.attributes()["messaging.system"] = "kafka"

    assert "rabbitmq" == sent.attributes()["messaging.system"]
    with pytest.raises(TypeError):
        sent.fixed["messaging.system"] = "kafka"  # type: ignore[index]  # what must not work


@given(st.text(), st.text(), st.none() | st.text(), st.sampled_from([PUBLISH, RECEIVE, PROCESS, ACK]))
def test_attribute_values_are_plain(
    exchange: str, routing_key: str, queue: str | None, operation: Operation
) -> None:
    """Any delivery yields only text, integers and true, which every exporter takes."""
    destination = consume_destination(exchange, routing_key, queue)

    for value in shape(operation, destination, BROKER).attributes(delivery_tag=1).values():
        assert type(value) in {str, int, bool}
        assert value not in {"", False}


class Nested:
    """Holds an exception class."""

    class Refused(Exception):  # noqa: N818 - a name as users choose it
        """Stands for an exception of the program."""


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        ("ValueError", ValueError("with a text that does not matter")),
        ("Nested.Refused", Nested.Refused()),
        ("asyncio.CancelledError", asyncio.CancelledError()),
        ("CancelledError", concurrent.futures.CancelledError()),
        ("TimeoutError", TimeoutError()),
        ("KeyboardInterrupt", KeyboardInterrupt()),
    ],
)
def test_the_type_of_an_error_is_the_name_of_its_class(expected: str, error: BaseException) -> None:
    """Low in cardinality: no text, no address; a cancelled handler does not look successful."""
    assert expected == error_type(error)
