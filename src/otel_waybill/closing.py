"""Ending a program, or a part of it, in good order."""

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, overload

from otel_waybill.core.rules import require

if TYPE_CHECKING:
    from otel_waybill.clients.aio_pika.closing import Target as AioPikaTarget
    from otel_waybill.clients.pika.closing import Target as PikaTarget


@overload
def shutdown(
    target: "PikaTarget", *, grace: float = 10.0, done: Callable[[], object] | None = None
) -> None: ...


@overload
def shutdown(target: "AioPikaTarget", *, grace: float = 10.0) -> Awaitable[None]: ...


def shutdown(
    target: "PikaTarget | AioPikaTarget", *, grace: float = 10.0, done: Callable[[], object] | None = None
) -> Awaitable[None] | None:
    """Stop consuming on a connection or channel, and bring what policies have there to an end.

    All its consumers are cancelled. Deliveries that wait are given back to the broker; handlers that run in
    threads or tasks may end, and copies on their way to a retry may be confirmed. What is left after that is
    given back as well: a task is cancelled, and what the handler in a thread says later is ignored. The
    program then closes the connection, or goes on with it.

    ``shutdown(connection)`` on pika, ``await shutdown(connection)`` on aio-pika. Closing a blocking
    connection or channel of pika in an instrumented program does the same without a *grace*.

    Args:
        target: a connection or a channel, of any adapter of pika but Twisted's, or of aio-pika.
        grace: seconds for handlers, 0 or more. A copy on its way may take the policy's ``confirm_timeout`` in
            addition.
        done: for event loops of pika, on which this function returns at once: called when it is done. A
            blocking connection waits for that, and so has no need of it.

    Raises:
        InvalidPolicy: *grace* is out of its range, or *target* is something else.
        AMQPError: the blocking connection failed meanwhile.
    """
    require(rule="grace >= 0 (seconds)", holds=grace >= 0, seen=grace)
    # Whoever has a target has imported its client.
    if "pika" in sys.modules:
        from otel_waybill.clients.pika import closing as pika  # noqa: PLC0415

        if isinstance(target, pika.Target):
            pika.shutdown(target, grace, done or _nothing)
            return None
    if "aio_pika" in sys.modules:
        from otel_waybill.clients.aio_pika import closing as aio_pika  # noqa: PLC0415

        if isinstance(target, aio_pika.Target):
            return aio_pika.shutdown(target, grace)
    require(rule="a connection or channel of pika or aio-pika", holds=False, seen=target)
    return None


def _nothing() -> None:
    pass
