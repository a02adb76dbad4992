"""Ending a program, or a part of it, in good order."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from otel_waybill.core.rules import require

if TYPE_CHECKING:
    from otel_waybill.clients.pika.closing import Target


def shutdown(target: "Target", *, grace: float = 10.0, done: Callable[[], object] | None = None) -> None:
    """Stop consuming on a connection or channel of pika, and bring what policies have there to an end.

    All its consumers are cancelled. Deliveries that wait are given back to the broker; handlers that run in
    threads may end, and copies on their way to a retry may be confirmed. What is left after that is given
    back as well, and what its handler says later is ignored. The program then closes the connection, or goes
    on with it.

    Closing a blocking connection or channel of an instrumented program does the same without a *grace*.

    Args:
        target: a connection or a channel, of any adapter but Twisted's.
        grace: seconds for handlers in threads, 0 or more. A copy on its way may take the policy's
            ``confirm_timeout`` in addition.
        done: called when it is done. A blocking connection waits for that, and so has no need of it; on an
            event loop this function returns at once.

    Raises:
        InvalidPolicy: *grace* is out of its range, or *target* is something else.
        AMQPError: the blocking connection failed meanwhile.
    """
    from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection  # noqa: PLC0415 - if it is there
    from pika.channel import Channel  # noqa: PLC0415
    from pika.connection import Connection  # noqa: PLC0415

    from otel_waybill.clients.pika import closing  # noqa: PLC0415

    require(rule="grace >= 0 (seconds)", holds=grace >= 0, seen=grace)
    require(
        rule="a connection or channel of pika",
        holds=isinstance(target, BlockingConnection | BlockingChannel | Connection | Channel),
        seen=target,
    )
    closing.shutdown(target, grace, done or _nothing)


def _nothing() -> None:
    pass
