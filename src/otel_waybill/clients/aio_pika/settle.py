"""Acks, nacks and rejects on aio-pika: traced, and noticed or intercepted where a policy stands."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar, cast

from aio_pika.exceptions import MessageProcessError
from aio_pika.message import IncomingMessage, Message
from opentelemetry import context as otel

from otel_waybill import names
from otel_waybill.clients.aio_pika import live
from otel_waybill.clients.aio_pika.read import channel_of, endpoint
from otel_waybill.clients.shared.arrival import Arrival
from otel_waybill.clients.shared.ledger import Ledgers, Table
from otel_waybill.core.verdicts import Settled
from otel_waybill.guard import harmless
from otel_waybill.patching import argument, passthrough
from otel_waybill.telemetry import hooks
from otel_waybill.telemetry.semconv import ACK, NACK, REJECT, Operation

if TYPE_CHECKING:
    from otel_waybill.clients.aio_pika.enforce import Guard

Call = Callable[[], Awaitable[object]]
_Wrapped = Callable[..., Awaitable[None]]
_Args = tuple[object, ...]
_Kwargs = dict[str, object]
_State = tuple[dict[str, object] | None, dict[str, object] | None]
M = TypeVar("M", bound=Message)


class Fetched(NamedTuple):
    """A message that was handed over to the program, which may process it still."""

    arrival: Arrival
    about: hooks.Message


ledgers: "Ledgers[Guard]" = Ledgers()

fetched: Table[Fetched] = Table("fetched")
"""Those of each channel."""

_tracing = harmless("tracing a settlement")


async def send(
    operation: Operation, message: IncomingMessage, about: hooks.Message, call: Call, batch: int = 0
) -> None:
    """Settle *message*, or a *batch* with it, by *call*, in a span of *operation* if those are wanted."""
    recorder, work = live.recorder(), None
    if recorder.settings.settle_spans and message.delivery_tag is not None:
        with _tracing:
            where = endpoint(channel_of(message))
            more = {names.MESSAGING_BATCH_COUNT: batch} if batch else None
            work = recorder.start(operation, about, where, otel.get_current(), more=more)
    if work is None:
        await call()
    else:
        with work:
            await call()


async def settle(
    operation: Operation,
    message: IncomingMessage,
    call: Call,
    *,
    multiple: bool = False,
    requeue: bool = False,
) -> None:
    """Let the program settle what is its to settle.

    Args:
        operation: ack, nack or reject.
        message: which it does.
        call: what the program called.
        multiple: whether it speaks of earlier deliveries as well.
        requeue: for a nack or reject.
    """
    tag, channel = message.delivery_tag, channel_of(message)
    if tag is None:
        await call()  # it has nothing to settle; aio-pika knows what to do
        return
    ledger = ledgers.of(channel)
    about = ledger.about(tag)
    plan = ledger.settle(tag, multiple=multiple, refusing=operation is not ACK)
    for each in plan.tags:
        fetched.take(channel, each)
    batch = len(plan.tags) if multiple else 0
    if plan.whole:
        await send(operation, message, about, call, batch)
    elif plan.tags or plan.entries:

        async def one_by_one() -> None:
            for each in plan.tags:
                if operation is ACK:
                    await channel.basic_ack(each)
                else:
                    await channel.basic_nack(each, requeue=requeue)

        if plan.tags:
            await send(operation, message, about, one_by_one, batch)
        mark_processed(message)
    for guard in plan.entries:
        guard.note(Settled.ACK if operation is ACK else Settled.REFUSED)


async def ack(wrapped: _Wrapped, message: IncomingMessage, args: _Args, kwargs: _Kwargs) -> None:
    """Stand in for `IncomingMessage.ack`."""
    multiple = argument(args, kwargs, 0, "multiple", default=False)
    if message.processed:
        await wrapped(*args, **kwargs)  # aio-pika says what is wrong
    else:
        await settle(ACK, message, lambda: wrapped(*args, **kwargs), multiple=multiple)


async def nack(wrapped: _Wrapped, message: IncomingMessage, args: _Args, kwargs: _Kwargs) -> None:
    """Stand in for `IncomingMessage.nack`."""
    multiple = argument(args, kwargs, 0, "multiple", default=False)
    requeue = argument(args, kwargs, 1, "requeue", default=True)
    if message.processed:
        await wrapped(*args, **kwargs)
    else:
        await settle(NACK, message, lambda: wrapped(*args, **kwargs), multiple=multiple, requeue=requeue)


async def reject(wrapped: _Wrapped, message: IncomingMessage, args: _Args, kwargs: _Kwargs) -> None:
    """Stand in for `IncomingMessage.reject`."""
    requeue = argument(args, kwargs, 0, "requeue", default=False)
    if message.processed:
        await wrapped(*args, **kwargs)
    else:
        await settle(REJECT, message, lambda: wrapped(*args, **kwargs), requeue=requeue)


class GuardedMessage(IncomingMessage):
    """What a handler under a policy sees: the original delivery, whose policy knows how it is settled."""

    __slots__ = ("_guard",)

    _guard: "Guard"

    @classmethod
    def of(cls, message: IncomingMessage, guard: "Guard", **original: object) -> Self:
        """Return the double of *message* for one attempt, with the attributes of its *original* delivery."""
        double = clone(message, cls, **original)
        double._guard = guard
        return double

    async def ack(self, multiple: bool = False) -> None:  # noqa: FBT001, FBT002 - aio-pika's signature
        """Acknowledge, as aio-pika does, and let the policy know."""
        if self._ours():
            with passthrough():
                await settle(ACK, self, lambda: IncomingMessage.ack(self, multiple), multiple=multiple)

    async def nack(self, multiple: bool = False, requeue: bool = True) -> None:  # noqa: FBT001, FBT002 - aio-pika's signature
        """Leave the delivery to the policy, as a failure."""
        if self._ours():
            with passthrough():
                call = lambda: IncomingMessage.nack(self, multiple, requeue)  # noqa: E731 - used once
                await settle(NACK, self, call, multiple=multiple, requeue=requeue)

    async def reject(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - aio-pika's signature
        """Leave the delivery to the policy, as a failure."""
        if self._ours():
            with passthrough():
                await settle(REJECT, self, lambda: IncomingMessage.reject(self, requeue), requeue=requeue)

    def _ours(self) -> bool:
        """Return whether this is for the handler to settle still.

        After its attempt has failed it is not: the policy runs it again or copies it.

        Raises:
            MessageProcessError: it is settled already, as aio-pika says it.
        """
        if self.processed:
            msg = "Message already processed"
            raise MessageProcessError(msg, self)
        return self._guard.double is self and self._guard.entrusted


def clone(message: Message, kind: type[M], **changed: object) -> M:
    """Return a new object of *kind* with the attributes of *message*, except for those that are *changed*.

    Unlike `copy`, it keeps what a subclass adds; unlike assignment, it works on a message that is locked.
    """
    double = kind.__new__(kind)
    for name, value in {**_attributes(message), **changed}.items():
        object.__setattr__(double, name, value)
    return double


def _attributes(message: Message) -> dict[str, object]:
    """Return everything that *message* holds, in slots or not, private ones included."""
    state = object.__getstate__(message)
    # Without slots it is the dict of the object; with some, a pair of that and another for them.
    plain, slots = cast("_State", state if isinstance(state, tuple) else (state, None))
    return {**(plain or {}), **(slots or {})}


def mark_processed(message: IncomingMessage) -> None:
    """Have *message* know that it is settled, as if its own methods had done it."""
    object.__setattr__(message, "_IncomingMessage__processed", True)  # its own refuses once locked
    message.lock()
