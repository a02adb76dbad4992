"""The broker dies, stands still, runs out of memory or loses a queue while copies are on their way."""

import time
from collections.abc import Callable
from pathlib import Path

import pika
import pytest

from crash.bounds import Row
from crash.conftest import Note
from crash.nodes import Node
from crash.programs.work import failures
from crash.scene import CLIENTS, MESSAGES, Scene

clients = pytest.mark.parametrize("client", CLIENTS)

_HEARTBEAT = 2
_FROZEN = 12  # seconds, enough for both clients to give up on the connection
_ALARMED = 8  # seconds, longer than a copy waits for its confirm
_LONG = 8.0  # seconds, so that every copy still waits when the last one is published
_WRITTEN = 5  # seconds after which a broker that dies still knows a queue that it has just declared


@clients
def test_broker_dies_and_comes_back(
    broker: Node, unique: Callable[[str], str], tmp_path: Path, note: Note, client: str
) -> None:
    """What waits in delay queues comes back with them, and so do consumers."""
    with Scene(broker, client, unique("crash"), tmp_path, rate=300) as scene:
        scene.begin(after=_WRITTEN)
        scene.until(lambda: len(scene.books.handled) > 50)
        broker.kill()
        broker.start()
        note(scene.finish(Row.RESTARTED, crashes=1))


@clients
def test_broker_stands_still(
    broker: Node, unique: Callable[[str], str], tmp_path: Path, note: Note, client: str
) -> None:
    """Its connections die of their heartbeat, and it then does what was asked on them."""
    with Scene(broker, client, unique("crash"), tmp_path, rate=100, heartbeat=_HEARTBEAT) as scene:
        scene.begin()
        scene.until(lambda: len(scene.books.handled) > 50)
        broker.freeze()
        time.sleep(_FROZEN)
        broker.thaw()
        note(scene.finish(Row.FROZEN, crashes=1))


@clients
def test_broker_raises_an_alarm(
    broker: Node, unique: Callable[[str], str], tmp_path: Path, note: Note, client: str
) -> None:
    """Whoever publishes is blocked: copies, and acks with them, wait until it is over."""
    with Scene(broker, client, unique("crash"), tmp_path, rate=100) as scene:
        scene.begin()
        scene.until(lambda: len(scene.books.handled) > 50)
        broker.control("set_vm_memory_high_watermark", "absolute", "1MB")
        time.sleep(_ALARMED / 2)
        sent = scene.publisher.sent
        time.sleep(_ALARMED / 2)
        assert sent == scene.publisher.sent  # so that this is what we think it is
        broker.control("set_vm_memory_high_watermark", "absolute", "1GiB")
        note(scene.finish(Row.REFUSED))


@clients
def test_queue_is_deleted(
    broker: Node, unique: Callable[[str], str], tmp_path: Path, note: Note, client: str
) -> None:
    """Copies that come back to a queue which is gone are kept where unroutable messages are."""
    queue = unique("crash")
    with Scene(broker, client, queue, tmp_path, first=_LONG) as scene:
        scene.begin()
        scene.until(lambda: scene.books.delayed() == sum(map(bool, map(failures, range(MESSAGES)))))
        with pika.BlockingConnection(pika.URLParameters(scene.books.url)) as connection:
            connection.channel().queue_delete(queue)
        note(scene.finish(Row.DELETED))
