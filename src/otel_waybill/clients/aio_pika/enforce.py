"""One delivery under a policy on aio-pika: does what the core decides, awaiting each part."""

import asyncio
import contextlib
import inspect
from typing import cast

from aio_pika.message import IncomingMessage

from otel_waybill.clients.aio_pika import live, standby
from otel_waybill.clients.aio_pika.copies import copies, fate
from otel_waybill.clients.aio_pika.read import (
    TOO_LATE,
    ambient,
    channel_of,
    copied,
    delivery,
    encoded_size,
    endpoint,
    original,
)
from otel_waybill.clients.aio_pika.settle import (
    Call,
    GuardedMessage,
    fetched,
    ledgers,
    mark_processed,
    send,
)
from otel_waybill.clients.aio_pika.tasks import kept
from otel_waybill.clients.shared.arrival import arrive, execution
from otel_waybill.clients.shared.departure import fitting
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
    Wait,
    Waited,
)
from otel_waybill.errors import Unconfirmed
from otel_waybill.guard import harmless
from otel_waybill.patching import passthrough
from otel_waybill.resilience.aio import drive
from otel_waybill.resilience.guarded import Handler, Terms
from otel_waybill.telemetry.hooks import Message
from otel_waybill.telemetry.semconv import ACK, NACK, Operation

_copying = harmless("publishing a copy")


class Guard:
    """One delivery under a policy; a performer for the driver and an entry for the ledger."""

    def __init__(  # noqa: PLR0913 - what one delivery is, each part by its name
        self,
        terms: Terms,
        handler: Handler,
        queue: str,
        message: IncomingMessage,
        *,
        temporary: bool = False,
        pushed: bool = True,
    ) -> None:
        """Take charge of *message*, *pushed* to us in a task of its own or fetched by the program."""
        recorder = live.recorder()
        arrival = arrive(delivery(message, queue), ambient(), recorder, belief=terms.spec.belief)
        self.execution = execution(terms, arrival)
        self._terms = terms
        self._handler = handler
        self._message = message
        self._channel = channel_of(message)
        self._original = original(message, arrival.waybill)
        self._copy: asyncio.Task[Published] | None = None
        hop = arrival.waybill.hop or arrival.delivery
        self._tag = message.delivery_tag or 0
        self._about = Message(
            hop.exchange, hop.routing_key, queue, message, message.body, self._tag, temporary
        )
        self._journal = Journal(
            recorder,
            arrival,
            self.execution,
            self._about,
            endpoint(self._channel),
            counted=fetched.take(self._channel, message.delivery_tag) is not None,
        )
        self._cancelled = False
        self.task = cast("asyncio.Task[object]", asyncio.current_task())
        self.pushed = pushed
        self.holding = False
        self.double: GuardedMessage | None = None
        self.entrusted = False
        self.settled: Settled | None = None
        self.outcome: Outcome | None = None
        ledgers.of(self._channel).entries[self._tag] = self
        ledgers.note(self._channel, self._about)

    @property
    def copied(self) -> bool:
        """Whether a copy is safe, so that there is nothing to give back."""
        return self._copy is not None and self._copy.done() and fate(self._copy).error is None

    async def drive(self) -> Outcome:
        """See the delivery to its end."""
        return await drive(self.execution, self)

    def leave(self) -> None:
        """Leave the delivery to the program: what a policy needs for it cannot be had."""
        ledgers.of(self._channel).close(self._tag)

    def note(self, settled: Settled) -> None:
        """Take note of what the program said about this delivery, in its handler or later."""
        self.settled = settled
        if self.outcome is not None:  # it was left open
            self.entrusted = False
            kept(drive(self.execution, self, Returned(settled)))

    def emit(self, event: Event) -> None:
        """Tell whoever listens what happened to this delivery."""
        self._journal.emit(event)

    async def wait(self, wait: Wait) -> Report:
        """Hold the delivery."""
        self.holding = True
        try:
            await _rest(wait)
        finally:
            self.holding = False
        return self._unless_gone(Waited())

    async def attempt(self, run: Run) -> Report:
        """Call the handler; a cancellation passes through unreported."""
        self.settled, self.entrusted, self._cancelled = None, True, False
        self.double = GuardedMessage.of(self._message, self, **self._original)
        self._journal.open(run)
        try:
            with self._journal.current(run), self._terms.lent(run.permit):
                result = self._terms.handler(run, self._handler)(self.double)
                if inspect.isawaitable(result):
                    await result
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is a failure of this attempt
            self._journal.error(error)
            return Raised(error, self.settled)
        except asyncio.CancelledError:
            self._cancelled = True
            raise
        finally:
            self.entrusted = False
        return Returned(self.settled)

    async def republish(self, copy: Republish) -> Report:
        """Send the copy, unless it is still on its way or safe already, and wait for its fate."""
        if self._channel.is_closed:
            return Gone()
        self._cancelled = False  # it was the deadline that stopped the handler, if anything
        work = None
        if self._copy is None or (self._copy.done() and not self.copied):
            self._copy = None
            with _copying:
                work, headers = self._journal.departure(copy)
                self._copy = self._publish(copy, headers)
        published = Published("not known")
        try:
            published = await self._fate()
        finally:
            if work is not None:
                work.finish(None if published.error is None else Unconfirmed(published.error))
        return self._unless_gone(published)

    async def settle(self, verdict: Ack | GiveBack | Leave) -> None:
        """Tell the broker, if it is for us to do so, and close the books."""
        if verdict.outcome.result is Result.DROPPED:
            self._journal.open()  # which neither a handler nor a copy has done
        try:
            if isinstance(verdict, Ack):
                await self._send(ACK, lambda: self._channel.basic_ack(self._tag))
            elif isinstance(verdict, GiveBack):
                if verdict.standby is not None:
                    await self._stand_by(verdict.standby)
                await self._send(NACK, lambda: self._channel.basic_nack(self._tag, requeue=True))
        finally:
            self._close(verdict.outcome)

    async def _stand_by(self, seconds: float) -> None:
        with contextlib.suppress(*TOO_LATE):
            await standby.leave(self._channel, self._message.consumer_tag or "", seconds)

    def _close(self, outcome: Outcome) -> None:
        if outcome.result is Result.OPEN:
            self.entrusted = True
        else:
            ledgers.of(self._channel).close(self._tag)
            mark_processed(self._message)
            if self.double is not None:
                mark_processed(self.double)
        if self._cancelled and outcome.result is Result.GIVEN_BACK:
            self._journal.error(asyncio.CancelledError())
        self._journal.close(outcome)
        self.outcome = outcome

    def _publish(self, copy: Republish, headers: dict[str, object]) -> asyncio.Task[Published] | None:
        connection = self._channel.connection
        frame_max = connection.connection_tune.frame_max
        fit = fitting(headers, lambda tried: encoded_size(copied(self._message, tried)), frame_max)
        if fit is None:
            return None
        properties = copied(self._message, fit)
        return copies(connection).publish(copy.exchange, copy.routing_key, self._message.body, properties)

    async def _fate(self) -> Published:
        """Return what became of the copy, as far as its time limit allows to know."""
        if self._copy is None:
            return Published("no copy of it can be made that fits into a frame")
        timeout = self._terms.spec.confirm_timeout
        try:
            await asyncio.wait({self._copy}, timeout=timeout)
        except asyncio.CancelledError:
            # To give it back now would be sure to duplicate a copy that is about to be safe.
            await asyncio.wait({self._copy}, timeout=timeout)
            raise
        return fate(self._copy) if self._copy.done() else Published(f"no confirm within {timeout:g} s")

    async def _send(self, operation: Operation, call: Call) -> None:
        if not live.patched and self._message.processed:
            return  # the program has settled the message that it had fetched, and nobody told us
        if self._channel.is_closed:
            return  # the broker has given it back; aiormq 6 sends all the same, which closes the connection
        with contextlib.suppress(*TOO_LATE), self._journal.current(), passthrough():
            await send(operation, self._message, self._about, call)

    def _unless_gone(self, report: Report) -> Report:
        return Gone() if self._channel.is_closed else report


async def _rest(wait: Wait) -> None:
    if wait.bell is None:
        await asyncio.sleep(wait.seconds)
        return
    rung, loop = asyncio.Event(), asyncio.get_running_loop()
    # Whoever rings may do so in another thread.
    wait.bell.listen(lambda: loop.call_soon_threadsafe(rung.set))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait.seconds):
            await rung.wait()
