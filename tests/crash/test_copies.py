"""The broker does not take a copy, or does not say so in time: the message is held and tried again."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from crash.bounds import Row
from crash.conftest import Note
from crash.nodes import Node
from crash.scene import CLIENTS, Scene
from otel_waybill.core.topology import delay_name, parked_name
from otel_waybill.names import PARKING_EXCHANGE, UNROUTED

clients = pytest.mark.parametrize("client", CLIENTS)

_WHILE = 2.0  # seconds in which copies are refused
_LATE = 7.0  # seconds, longer than a copy waits for its confirm
_FRAME = 131_072  # octets at most of a header, as RabbitMQ has it


@contextmanager
def channel(scene: Scene) -> Iterator[BlockingChannel]:
    """Lend a channel of a connection around the proxy."""
    with pika.BlockingConnection(pika.URLParameters(scene.books.url)) as connection:
        yield connection.channel()


@clients
def test_copies_are_returned(
    broker: Node, unique: Callable[[str], str], tmp_path: Path, note: Note, client: str
) -> None:
    """Copies that nobody routes go on their way once the bindings of the delay queues are back."""
    with Scene(broker, client, unique("crash"), tmp_path, rate=200) as scene:
        scene.begin()
        scene.until(lambda: len(scene.books.handled) > 50)
        with channel(scene) as repairing:
            for name in map(delay_name, scene.books.rungs):
                repairing.queue_unbind(name, name, "")
            time.sleep(_WHILE)
            assert 0 == scene.books.delayed()  # so that this is what we think it is
            for name in map(delay_name, scene.books.rungs):
                repairing.queue_bind(name, name, "")
        note(scene.finish(Row.REFUSED))


@clients
def test_copies_are_refused(
    broker: Node, unique: Callable[[str], str], tmp_path: Path, note: Note, client: str
) -> None:
    """Delay queues that are full refuse copies, as their overflow says, until nothing limits them."""
    with Scene(broker, client, unique("crash"), tmp_path, rate=200) as scene:
        scene.begin()
        broker.control("set_policy", "full", r"^waybill\.delay\.", '{"max-length": 2}')
        time.sleep(_WHILE)
        broker.control("clear_policy", "full")
        note(scene.finish(Row.REFUSED))


@clients
def test_confirms_are_late(
    broker: Node, unique: Callable[[str], str], tmp_path: Path, note: Note, client: str
) -> None:
    """A copy that may still be confirmed is not sent again."""
    with Scene(broker, client, unique("crash"), tmp_path, rate=200) as scene:
        scene.begin()
        scene.until(lambda: len(scene.books.handled) > 50)
        scene.proxy.stall()
        time.sleep(_LATE)
        scene.proxy.resume()
        note(scene.finish(Row.REFUSED))


@clients
def test_parking_is_unbound(
    broker: Node, unique: Callable[[str], str], tmp_path: Path, note: Note, client: str
) -> None:
    """What cannot be parked beside its queue is kept where unroutable messages are."""
    queue = unique("crash")
    with Scene(broker, client, queue, tmp_path) as scene:
        scene.begin()
        with channel(scene) as breaking:
            breaking.queue_unbind(parked_name(queue), PARKING_EXCHANGE, queue)
        note(scene.finish(Row.REFUSED))


@clients
def test_nothing_can_be_parked(
    broker: Node, unique: Callable[[str], str], tmp_path: Path, note: Note, client: str
) -> None:
    """With no place left to go, messages are held, and parked once there is one."""
    queue = unique("crash")
    with Scene(broker, client, queue, tmp_path) as scene:
        scene.begin()
        with channel(scene) as breaking:
            breaking.queue_unbind(parked_name(queue), PARKING_EXCHANGE, queue)
            breaking.queue_unbind(UNROUTED, UNROUTED, "")
            time.sleep(_WHILE)
            breaking.queue_bind(UNROUTED, UNROUTED, "")
            breaking.queue_bind(parked_name(queue), PARKING_EXCHANGE, queue)
        note(scene.finish(Row.REFUSED))


@clients
def test_headers_are_large(
    broker: Node, unique: Callable[[str], str], tmp_path: Path, note: Note, client: str
) -> None:
    """A copy of headers that leave no room leaves out what is dispensable, and breaks no connection."""
    large = {"tracestate": "large=" + "a" * 8192, "mine": "a" * (_FRAME - 8192 - 6000)}
    with Scene(broker, client, unique("crash"), tmp_path, messages=100, headers=large) as scene:
        scene.begin()
        note(scene.finish(Row.LARGE))
