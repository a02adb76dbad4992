"""What a program that pulls from pika does while it waits in `run`."""

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from integration.pika_recording import Unique, opened
from otel_waybill import Policy, RateLimit


def _pull(channel: BlockingChannel, queue: str, policy: Policy, seen: list[bytes]) -> None:
    method, properties, body = channel.basic_get(queue)
    assert method is not None
    assert properties is not None
    assert body is not None
    policy.run(channel, method, properties, body, lambda *delivery: seen.append(delivery[-1]), queue=queue)


def test_interrupted_wait_gives_the_message_back_and_blocks_nobody(
    channel: BlockingChannel, amqp_url: str, unique: Unique
) -> None:
    """Ctrl-C while a message is held: it is back in its queue, and others under the policy get their turn."""
    queue, seen = unique("pulling"), list[bytes]()
    channel.queue_declare(queue, durable=True)
    policy = Policy(rate=RateLimit(1, per=1.0))

    def interrupt() -> None:
        raise KeyboardInterrupt

    for body in (b"1", b"2"):
        channel.basic_publish("", queue, body)
    _pull(channel, queue, policy, seen)
    channel.connection.call_later(0.1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        _pull(channel, queue, policy, seen)
    channel.connection.process_data_events(0)
    with opened(amqp_url) as other:
        _pull(other, queue, policy, seen)
        other.queue_delete(queue)
        other.queue_delete(f"{queue}.parked")

    assert [b"1", b"2"] == seen
