"""One delivery under a policy on pika: does what the core decides, and never waits."""

import contextlib
from functools import partial

from opentelemetry import context as otel
from pika.exceptions import AMQPError

from otel_waybill.clients.pika import live
from otel_waybill.clients.pika.copies import Copy, copies
from otel_waybill.clients.pika.read import Pushed, copied, delivery, endpoint, original
from otel_waybill.clients.pika.settle import Call, GuardedChannel, ledgers, recent, send
from otel_waybill.clients.shared.arrival import arrive, execution
from otel_waybill.clients.shared.journal import Journal
from otel_waybill.core.delivery import Outcome, Result
from otel_waybill.core.events import Event
from otel_waybill.core.verdicts import (
    Ack,
    Cancelled,
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
from otel_waybill.resilience.callbacks import drive
from otel_waybill.resilience.guarded import Handler, Terms
from otel_waybill.resilience.port import Answer
from otel_waybill.telemetry.hooks import Message
from otel_waybill.telemetry.semconv import ACK, NACK, Operation


class Guard:
    """One delivery under a policy; a performer for the driver and an entry for the ledger."""

    def __init__(self, terms: Terms, handler: Handler, queue: str, pushed: Pushed) -> None:
        channel, method, properties, body = pushed
        recorder = live.recorder()
        arrival = arrive(
            delivery(method, properties, queue),
            otel.get_current(),
            recorder,
            max_deadline=terms.spec.max_deadline,
        )
        self.execution = execution(terms, arrival)
        self._terms = terms
        self._handler = handler
        self._channel = channel
        self._tag: int = method.delivery_tag
        self._wire = properties
        self._body = body
        self._method, self._properties = original(method, properties, arrival.waybill)
        self._copy: Copy | None = None
        message = Message(
            self._method.exchange, self._method.routing_key, queue, self._properties, body, self._tag
        )
        self._journal = Journal(recorder, arrival, self.execution, message, endpoint(channel._impl))
        self._later: Answer | None = None
        self.started = False
        self.settled: Settled | None = None
        self.outcome: Outcome | None = None
        ledgers.of(channel._impl)[self._tag] = self
        recent.note(channel._impl, message)

    def drive(self) -> None:
        """Start; the delivery then goes its way by callbacks."""
        self._later = drive(self.execution, self)

    def note(self, settled: Settled) -> None:
        """Take note of what the program said about this delivery, in its handler or later."""
        self.settled = settled
        if self.outcome is not None and self.outcome.result is Result.OPEN and self._later is not None:
            self._later(Returned(settled))

    def emit(self, event: Event) -> None:
        """Tell whoever listens what happened to this delivery."""
        self._journal.emit(event)

    def wait(self, seconds: float, answer: Answer) -> None:
        """Hold the delivery on a timer of its connection."""
        if self._channel.connection.is_open:
            self._channel.connection.call_later(seconds, lambda: answer(self._unless_gone(Waited())))
        else:
            answer(Gone())

    def attempt(self, run: Run, answer: Answer) -> None:
        """Call the handler where pika calls it."""
        self.started, self.settled = True, None
        self._journal.open(run)
        channel = self._channel if live.patched else GuardedChannel(self._channel)
        try:
            with self._journal.current(run), self._terms.lent(run.permit):
                self._handler(channel, self._method, self._properties, self._body)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is a failure of this attempt
            self._journal.error(error)
            answer(Raised(error, self.settled))
        except BaseException as error:
            self._journal.error(error)
            answer(Cancelled(self.settled))
            raise
        else:
            answer(Returned(self.settled))

    def republish(self, copy: Republish, answer: Answer) -> None:
        """Send the copy, unless it is still on its way, and answer with its fate."""
        if not self._channel.is_open:
            answer(Gone())
            return
        work = None
        if self._copy is None or self._copy.fate is not None:
            work, headers = self._journal.departure(copy)
            properties = copied(self._wire, headers)
            try:
                ours = copies(self._channel.connection)
            except AMQPError as error:
                if work is not None:
                    work.finish(error)
                answer(self._unless_gone(Published(f"no channel for copies: {error!r}")))
                return
            self._copy = ours.publish(copy.exchange, copy.routing_key, self._body, properties)

        def told(fate: Published) -> None:
            if work is not None:
                work.finish(None if fate.error is None else Unconfirmed(fate.error))
            answer(self._unless_gone(fate))

        self._copy.await_fate(told, self._terms.spec.confirm_timeout)

    def settle(self, verdict: Ack | GiveBack | Leave) -> None:
        """Tell the broker, if it is for us to do so, and close the books."""
        channel, tag = self._channel._impl, self._tag
        if isinstance(verdict, Ack):
            self._send(ACK, partial(channel.basic_ack, tag))
        elif isinstance(verdict, GiveBack):
            self._send(NACK, partial(channel.basic_nack, tag, requeue=True))
        if verdict.outcome.result is not Result.OPEN:
            ledgers.of(channel).pop(tag, None)
        self._journal.close(verdict.outcome)
        self.outcome = verdict.outcome

    def _send(self, operation: Operation, call: Call) -> None:
        # On a closed channel there is nothing to say: the broker has taken the delivery back.
        if self._channel.is_open:
            with contextlib.suppress(AMQPError), self._journal.current(), passthrough():
                send(operation, self._channel._impl, self._tag, call)

    def _unless_gone(self, report: Report) -> Report:
        return report if self._channel.is_open else Gone()


class Pull(Guard):
    """A delivery that the program fetched itself: it waits here, where the program waits for it."""

    _waiting: tuple[float, Answer] | None = None

    def wait(self, seconds: float, answer: Answer) -> None:
        """Leave the waiting to `complete`: this may be called from within the connection's I/O."""
        self._waiting = seconds, answer

    def complete(self) -> Outcome:
        """Pump the connection until the delivery has ended, and return how.

        Raises:
            AMQPError: the connection failed; the broker takes the delivery back.
        """
        self.drive()
        connection = self._channel.connection
        while self.outcome is None:
            if self._waiting is None:
                connection._flush_output(lambda: self.outcome is not None or self._waiting is not None)
                continue
            (seconds, answer), self._waiting = self._waiting, None
            connection.sleep(seconds)
            answer(self._unless_gone(Waited()))
        connection._flush_output()
        return self.outcome
