"""One delivery under a policy on pika: does what the core decides, and never waits."""

import contextlib
from collections.abc import Callable
from copy import copy as shallow
from functools import partial

from opentelemetry import context as otel
from pika.exceptions import AMQPError

from otel_waybill.clients.pika import live
from otel_waybill.clients.pika.copies import Copy, copies
from otel_waybill.clients.pika.read import Pushed, copied, delivery, encoded_size, endpoint, original
from otel_waybill.clients.pika.settle import Call, GuardedChannel, ledgers, send
from otel_waybill.clients.shared.arrival import arrive, execution
from otel_waybill.clients.shared.departure import fitting
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
    Wait,
    Waited,
)
from otel_waybill.errors import Unconfirmed
from otel_waybill.guard import harmless
from otel_waybill.patching import passthrough
from otel_waybill.resilience.callbacks import drive
from otel_waybill.resilience.guarded import Handler, Terms
from otel_waybill.resilience.port import Answer
from otel_waybill.telemetry.hooks import Message
from otel_waybill.telemetry.semconv import ACK, NACK, Operation

_copying = harmless("publishing a copy")

_LOOK = 0.05
"""Seconds after which a delivery that the program fetched itself looks whether a limit has room for it."""


class Guard:
    """One delivery under a policy; a performer for the driver and an entry for the ledger."""

    _counted = False
    """Whether the delivery counted as consumed before it came here."""

    def __init__(self, terms: Terms, handler: Handler, queue: str, pushed: Pushed) -> None:
        channel, method, properties, body = pushed
        recorder = live.recorder()
        facts = delivery(method, properties, queue)
        arrival = arrive(facts, otel.get_current(), recorder, belief=terms.spec.belief)
        self.execution = execution(terms, arrival)
        self._terms = terms
        self._handler = handler
        self._channel = channel
        self._tag: int = method.delivery_tag
        self._wire = shallow(properties)
        self._body = body
        self._method, self._properties = original(method, properties, arrival.waybill)
        self._copy: Copy | None = None
        self._message = Message(
            self._method.exchange, self._method.routing_key, queue, self._properties, body, self._tag
        )
        self._journal = Journal(
            recorder,
            arrival,
            self.execution,
            self._message,
            endpoint(channel._impl),
            counted=self._counted,
        )
        self._later: Answer | None = None
        self._held: Answer | None = None
        self._timer: int | None = None
        self.entrusted = False
        self.settled: Settled | None = None
        self.outcome: Outcome | None = None
        ledgers.of(channel._impl).entries[self._tag] = self
        ledgers.note(channel._impl, self._message)

    def drive(self) -> None:
        """Start; the delivery then goes its way by callbacks."""
        self._later = drive(self.execution, self)

    def note(self, settled: Settled) -> None:
        """Take note of what the program said about this delivery, in its handler or later."""
        self.settled = settled
        if self.outcome is not None and self._later is not None:  # it was left open
            self.entrusted = False
            self._later(Returned(settled))

    def gone(self) -> None:
        """Take note that the channel is closed: nothing that it waited for will come."""
        held, self._held = self._held, None
        if held is not None:
            held(Gone())
        elif self.entrusted and self.outcome is not None:
            ledgers.of(self._channel._impl).close(self._tag)

    def emit(self, event: Event) -> None:
        """Tell whoever listens what happened to this delivery."""
        self._journal.emit(event)

    def wait(self, wait: Wait, answer: Answer) -> None:
        """Hold the delivery on a timer of its connection, or until the bell rings."""
        # One object for each wait: a bell that rings late rings for nobody.
        hold = self._held = partial(answer)
        if not self._channel.is_open:
            self.gone()
            return
        connection, over = self._channel.connection, partial(self._waited, hold)
        self._timer = connection.call_later(wait.seconds, over)
        if wait.bell is not None:
            wait.bell.listen(partial(self._ring, over))

    def attempt(self, run: Run, answer: Answer) -> None:
        """Call the handler where pika calls it."""
        self.settled, self.entrusted = None, True
        self._journal.open(run)
        channel = self._channel if live.patched else GuardedChannel(self._channel)
        try:
            with self._journal.current(run), self._terms.lent(run.permit):
                handler = self._terms.handler(run, self._handler)
                handler(channel, self._method, self._properties, self._body)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is a failure of this attempt
            self.entrusted = False
            self._journal.error(error)
            answer(Raised(error, self.settled))
        except BaseException as error:
            self.entrusted = False
            self._journal.error(error)
            answer(Cancelled(self.settled))
            raise
        else:
            self.entrusted = False
            answer(Returned(self.settled))

    def republish(self, copy: Republish, answer: Answer) -> None:
        """Send the copy, unless it is still on its way or safe already, and answer with its fate."""
        if not self._channel.is_open:
            answer(Gone())
            return
        work = None
        if self._copy is None or self._copy.failed:
            self._copy = None
            with _copying:
                work, headers = self._journal.departure(copy)
                self._copy = self._publish(copy, headers)

        def told(fate: Published) -> None:
            if work is not None:
                work.finish(None if fate.error is None else Unconfirmed(fate.error))
            answer(self._unless_gone(fate))

        if self._copy is None:
            told(Published("no copy of it can be made that fits into a frame"))
        else:
            self._copy.await_fate(told, self._terms.spec.confirm_timeout)

    def settle(self, verdict: Ack | GiveBack | Leave) -> None:
        """Tell the broker, if it is for us to do so, and close the books."""
        channel, tag = self._channel._impl, self._tag
        if verdict.outcome.result is Result.DROPPED:
            self._journal.open()  # which neither a handler nor a copy has done
        if isinstance(verdict, Ack):
            self._send(ACK, partial(channel.basic_ack, tag))
        elif isinstance(verdict, GiveBack):
            self._send(NACK, partial(channel.basic_nack, tag, requeue=True))
        if verdict.outcome.result is Result.OPEN:
            self.entrusted = True
        else:
            ledgers.of(channel).close(tag)
        self._journal.close(verdict.outcome)
        self.outcome = verdict.outcome

    def _publish(self, copy: Republish, headers: dict[str, object]) -> Copy | None:
        connection = self._channel.connection
        frame_max = connection._impl.params.frame_max
        fit = fitting(headers, lambda tried: encoded_size(copied(self._wire, tried)), frame_max)
        if fit is None:
            return None
        properties = copied(self._wire, fit)
        return copies(connection).publish(copy.exchange, copy.routing_key, self._body, properties)

    def _ring(self, over: Callable[[], None]) -> None:
        # Whoever rings may do so in another thread, and in the context of another message.
        with passthrough():
            self._channel.connection.add_callback_threadsafe(over)

    def _waited(self, hold: Answer) -> None:
        if self._held is not hold:
            return
        timer, self._held, self._timer = self._timer, None, None
        if timer is not None and self._channel.is_open:
            self._channel.connection.remove_timeout(timer)
        hold(self._unless_gone(Waited()))

    def _send(self, operation: Operation, call: Call) -> None:
        # On a closed channel there is nothing to say: the broker has taken the delivery back.
        if self._channel.is_open:
            with contextlib.suppress(AMQPError), self._journal.current(), passthrough():
                send(operation, self._channel._impl, self._message, call)

    def _unless_gone(self, report: Report) -> Report:
        return report if self._channel.is_open else Gone()


class Pull(Guard):
    """A delivery that the program fetched itself: it waits here, where the program waits for it."""

    _counted = True
    _seconds = 0.0

    def wait(self, wait: Wait, answer: Answer) -> None:
        """Leave the waiting to `complete`: this may be called from within the connection's I/O."""
        self._held = answer
        # Nobody can ring for it in there.
        self._seconds = wait.seconds if wait.bell is None else min(wait.seconds, _LOOK)

    def complete(self) -> Outcome:
        """Pump the connection until the delivery has ended, and return how.

        Raises:
            AMQPError: the connection failed; the broker takes the delivery back.
        """
        self.drive()
        connection = self._channel.connection
        try:
            while self.outcome is None:
                if self._held is None:
                    connection._flush_output(lambda: self.outcome is not None or self._held is not None)
                else:
                    connection.sleep(self._seconds)
                    self._waited(self._held)
        except BaseException:
            self._interrupted()
            raise
        connection._flush_output()
        return self.outcome

    def _interrupted(self) -> None:
        """Give the delivery back if it was held: nobody waits for it any more."""
        held, self._held = self._held, None
        if held is not None:
            held(Cancelled(self.settled))
