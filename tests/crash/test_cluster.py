"""The node that leads the queues dies, and the cluster goes on without it."""

from collections.abc import Callable
from pathlib import Path

import pika
import pytest

from crash.bounds import Row
from crash.conftest import Note
from crash.nodes import Node
from crash.scene import CLIENTS, Scene
from otel_waybill.core.topology import delay_name

_WRITTEN = 5  # seconds after which every node knows a queue that was just declared


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("apart", [False, True], ids=["with the connection", "elsewhere"])
def test_leader_dies(  # noqa: PLR0913 - each is a fixture or a parameter
    cluster: list[Node], unique: Callable[[str], str], tmp_path: Path, note: Note, client: str, *, apart: bool
) -> None:
    """Copies survive in the replicas, whether the consumer was connected to that node or to another."""
    doomed, other, _ = cluster
    queue = unique("crash")
    with Scene(other, client, queue, tmp_path, rate=100, through=doomed) as scene:
        scene.begin(after=_WRITTEN)
        scene.proxy.upstream = other.port
        if apart:
            scene.proxy.cut()
        scene.until(lambda: len(scene.books.handled) > 50)
        ladder = [delay_name(ms) for ms in scene.books.rungs]
        leaders = other.leaders()
        assert {doomed.full_name} == {leaders[name] for name in (queue, *ladder)}  # or this is something else
        doomed.kill()
        scene.until(lambda: not scene.publisher.is_alive())
        # Delay queues that lost their leader together with their target wait for that node (RabbitMQ 3.10).
        doomed.start()
        note(scene.finish(Row.LEADER, crashes=2 if apart else 1))
        with pika.BlockingConnection(pika.URLParameters(scene.books.url)) as connection:
            for name in ladder:  # so that the next consumer has it where it begins
                connection.channel().queue_delete(name)
