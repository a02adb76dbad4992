"""How often a message may end twice: the table of docs/guarantees.md, row by row."""

from enum import Enum

PREFETCH = 10
"""Unacknowledged deliveries of each consumer here."""

_ON_THE_WAY = 32
"""What a delay queue has sent on and not yet taken off, at most: `dead_letter_worker_consumer_prefetch`."""


class Bound(Enum):
    """At most so many messages end twice."""

    NEVER = "none"
    CONSUMER = "`prefetch` per crash"
    BROKER = "`prefetch`, and 32 per delay queue, per crash"

    def of(self, crashes: int, delay_queues: int) -> int:
        """Return the number for so many crashes of one consumer."""
        each = {
            Bound.NEVER: 0,
            Bound.CONSUMER: PREFETCH,
            Bound.BROKER: PREFETCH + _ON_THE_WAY * delay_queues,
        }
        return crashes * each[self]


class Row(Enum):
    """What may happen to a message."""

    NOTHING = "nothing breaks"
    RUNNING = "the consumer or its connection dies before or during the handler"
    COPY_UNSENT = "… before the copy is sent"
    COPY_SENT = "… after the copy is sent, before its confirm arrives"
    UNACKED = "… after the confirm, before the ack is sent"
    ACKED = "… after the ack is sent"
    REFUSED = "the copy is returned, refused or confirmed late, or the broker raises an alarm"
    RESTARTED = "the broker dies and comes back, copies waiting in delay queues"
    FROZEN = "the broker stands still for longer than the heartbeat"
    LEADER = "the leader of quorum queues dies, the cluster goes on"
    DELETED = "the consumed queue is deleted, copies waiting in delay queues"
    LARGE = "the headers are too large for a copy with everything in them"


BOUNDS = {
    Row.NOTHING: Bound.NEVER,
    Row.RUNNING: Bound.CONSUMER,
    Row.COPY_UNSENT: Bound.CONSUMER,
    Row.COPY_SENT: Bound.CONSUMER,
    Row.UNACKED: Bound.CONSUMER,
    Row.ACKED: Bound.CONSUMER,
    Row.REFUSED: Bound.NEVER,
    Row.RESTARTED: Bound.BROKER,
    Row.FROZEN: Bound.CONSUMER,
    Row.LEADER: Bound.BROKER,
    Row.DELETED: Bound.NEVER,
    Row.LARGE: Bound.NEVER,
}
