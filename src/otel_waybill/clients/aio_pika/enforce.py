"""One delivery under a policy on aio-pika: does what the core decides, awaiting each part."""

import asyncio
import contextlib
import inspect
from collections.abc import Iterator

from aio_pika.exceptions import AMQPException, ChannelInvalidStateError, MessageProcessError
from aio_pika.message import IncomingMessage

from otel_waybill.clients.aio_pika import live
from otel_waybill.clients.aio_pika.copies import copies
from otel_waybill.clients.aio_pika.pull import take
from otel_waybill.clients.aio_pika.read import ambient, channel_of, copied, delivery, endpoint, original
from otel_waybill.clients.aio_pika.settle import Call, GuardedMessage, ledgers, mark_processed, recent, send
from otel_waybill.clients.shared.arrival import arrive, execution
from otel_waybill.clients.shared.journal import Journal
from otel_waybill.core.delivery import Outcome, Result
from otel_waybill.core.events import Event
from otel_waybill.core.verdicts import (
    Ack,
    GiveBack,
    Gone,
    Leave,
    Published,
    Raised,
    Report,
    Republish,
    Returned,
    Run,
    Settled,
    Waited,
)
from otel_waybill.errors import Unconfirmed
from otel_waybill.patching import passthrough
from otel_waybill.resilience.aio import drive
from otel_waybill.resilience.guarded import Handler, Terms
from otel_waybill.telemetry.hooks import Message
from otel_waybill.telemetry.semconv import ACK, NACK, Operation

# What a settlement meets on a channel that is gone, or when the program has settled in another way: there
# is nothing to add then, and the broker hands out again what it has no ack for.
_TOO_LATE = (AMQPException, ChannelInvalidStateError, MessageProcessError, ConnectionError)


class Guard:
    """One delivery under a policy; a performer for the driver and an entry for the ledger."""

    def __init__(self, terms: Terms, handler: Handler, queue: str, message: IncomingMessage) -> None:
        recorder = live.recorder()
        arrival = arrive(delivery(message, queue), ambient(), recorder, max_deadline=terms.spec.max_deadline)
        self.execution = execution(terms, arrival)
        self._terms = terms
        self._handler = handler
        self._message = message
        self._channel = channel_of(message)
        self._original = original(message, arrival.waybill)
        self._copy: asyncio.Task[Published] | None = None
        hop = arrival.waybill.hop or arrival.delivery
        self._tag = message.delivery_tag or 0
        about = Message(hop.exchange, hop.routing_key, queue, message, message.body, self._tag)
        self._journal = Journal(
            recorder,
            arrival,
            self.execution,
            about,
            endpoint(self._channel),
            counted=take(message) is not None,
        )
        self._cancelled = False
        self.double: GuardedMessage | None = None
        self.settled: Settled | None = None
        self.outcome: Outcome | None = None
        ledgers.of(self._channel)[self._tag] = self
        recent.note(self._channel, about)

    @property
    def started(self) -> bool:
        """Whether the handler has been given it."""
        return self.double is not None

    async def drive(self) -> Outcome:
        """See the delivery to its end."""
        return await drive(self.execution, self)

    def earlier(self) -> Iterator[GuardedMessage]:
        """Yield what handlers were given of the same channel before this and nobody has settled."""
        for tag, guard in ledgers.of(self._channel).covered(self._tag, multiple=True):
            if tag != self._tag and guard.settled is None and guard.double is not None:
                yield guard.double

    async def note(self, settled: Settled) -> None:
        """Take note of what the program said about this delivery, in its handler or later."""
        self.settled = settled
        if self.outcome is not None and self.outcome.result is Result.OPEN:
            await drive(self.execution, self, Returned(settled))

    def emit(self, event: Event) -> None:
        """Tell whoever listens what happened to this delivery."""
        self._journal.emit(event)

    async def wait(self, seconds: float) -> Report:
        """Hold the delivery."""
        await asyncio.sleep(seconds)
        return self._unless_gone(Waited())

    async def attempt(self, run: Run) -> Report:
        """Call the handler; a cancellation passes through unreported."""
        self.settled = None
        self.double = GuardedMessage.of(self._message, self, **self._original)
        self._journal.open(run)
        try:
            with self._journal.current(run), self._terms.lent(run.permit):
                result = self._handler(self.double)
                if inspect.isawaitable(result):
                    await result
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is a failure of this attempt
            self._journal.error(error)
            return Raised(error, self.settled)
        except asyncio.CancelledError:
            self._cancelled = True
            raise
        return Returned(self.settled)

    async def republish(self, copy: Republish) -> Report:
        """Send the copy, unless it is still on its way, and wait for its fate."""
        if self._channel.is_closed:
            return Gone()
        work = None
        if self._copy is None or self._copy.done():
            work, headers = self._journal.departure(copy)
            self._copy = copies(self._channel.connection).publish(
                copy.exchange, copy.routing_key, self._message.body, copied(self._message, headers)
            )
        timeout = self._terms.spec.confirm_timeout
        await asyncio.wait({self._copy}, timeout=timeout)
        fate = self._copy.result() if self._copy.done() else Published(f"no confirm within {timeout:g} s")
        if work is not None:
            work.finish(None if fate.error is None else Unconfirmed(fate.error))
        return self._unless_gone(fate)

    async def settle(self, verdict: Ack | GiveBack | Leave) -> None:
        """Tell the broker, if it is for us to do so, and close the books."""
        if isinstance(verdict, Ack):
            await self._send(ACK, self._message.ack)
        elif isinstance(verdict, GiveBack):
            if self._cancelled:
                self._journal.error(asyncio.CancelledError())
            await self._send(NACK, self._message.nack)
        if verdict.outcome.result is not Result.OPEN:
            ledgers.of(self._channel).pop(self._tag, None)
            mark_processed(self._message)
            if self.double is not None:
                mark_processed(self.double)
        self._journal.close(verdict.outcome)
        self.outcome = verdict.outcome

    async def _send(self, operation: Operation, call: Call) -> None:
        with contextlib.suppress(*_TOO_LATE), self._journal.current(), passthrough():
            await send(operation, self._message, call)

    def _unless_gone(self, report: Report) -> Report:
        return Gone() if self._channel.is_closed else report
