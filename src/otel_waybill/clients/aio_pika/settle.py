"""Acks, nacks and rejects on aio-pika: traced, and noticed or intercepted where a policy stands."""

import copyreg
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Self

from aio_pika.exceptions import MessageProcessError
from aio_pika.message import IncomingMessage
from opentelemetry import context as otel

from otel_waybill.clients.aio_pika import live
from otel_waybill.clients.aio_pika.read import channel_of, endpoint
from otel_waybill.clients.shared.ledger import Ledgers, Recent
from otel_waybill.core.verdicts import Settled
from otel_waybill.guard import harmless
from otel_waybill.patching import Wrapper
from otel_waybill.telemetry.semconv import ACK, NACK, REJECT, Operation

if TYPE_CHECKING:
    from otel_waybill.clients.aio_pika.enforce import Guard

Call = Callable[[], Awaitable[None]]

ledgers: "Ledgers[Guard]" = Ledgers()
recent = Recent()

_tracing = harmless("tracing a settlement")


async def send(operation: Operation, message: IncomingMessage, call: Call) -> None:
    """Settle *message* by *call*, in a span of *operation* if those are wanted."""
    recorder, work = live.recorder(), None
    if recorder.settings.settle_spans and message.delivery_tag is not None:
        with _tracing:
            channel = channel_of(message)
            about = recent.about(channel, message.delivery_tag)
            work = recorder.start(operation, about, endpoint(channel), otel.get_current())
    if work is None:
        await call()
    else:
        with work:
            await call()


def _standing_in(operation: Operation) -> Wrapper:
    def settle(
        wrapped: Callable[..., Awaitable[None]],
        message: IncomingMessage,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> Awaitable[None]:
        return send(operation, message, lambda: wrapped(*args, **kwargs))

    return settle


ack = _standing_in(ACK)
nack = _standing_in(NACK)
reject = _standing_in(REJECT)


class GuardedMessage(IncomingMessage):
    """What a handler under a policy sees: the original delivery, whose policy knows how it is settled."""

    __slots__ = ("_guard",)

    _guard: "Guard"

    @classmethod
    def of(cls, message: IncomingMessage, guard: "Guard", **original: object) -> Self:
        """Return the double of *message* for one attempt, with the attributes of its *original* delivery."""
        # copyreg knows the slots of every class in between, private names included.
        double = cls.__new__(cls)
        for name in copyreg._slotnames(type(message)):  # type: ignore[attr-defined]  # missing in typeshed
            if hasattr(message, name):
                object.__setattr__(double, name, getattr(message, name))
        for name, value in original.items():
            object.__setattr__(double, name, value)
        double._guard = guard
        return double

    async def ack(self, multiple: bool = False) -> None:  # noqa: FBT001, FBT002 - aio-pika's signature
        """Acknowledge, as aio-pika does, and let the policy know."""
        for earlier in self._guard.earlier() if multiple else ():
            await earlier.ack()
        await super().ack()
        await self._guard.note(Settled.ACK)

    async def nack(self, multiple: bool = False, requeue: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002 - aio-pika's signature
        """Leave the delivery to the policy, as a failure."""
        for earlier in self._guard.earlier() if multiple else ():
            await earlier.nack()
        await self._refuse()

    async def reject(self, requeue: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - aio-pika's signature
        """Leave the delivery to the policy, as a failure."""
        await self._refuse()

    async def _refuse(self) -> None:
        if self.processed:
            msg = "Message already processed"
            raise MessageProcessError(msg, self)
        mark_processed(self)
        await self._guard.note(Settled.REFUSED)


def mark_processed(message: IncomingMessage) -> None:
    """Have *message* know that it is settled, as if its own methods had done it."""
    object.__setattr__(message, "_IncomingMessage__processed", True)  # its own refuses once locked
    message.lock()
