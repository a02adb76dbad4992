"""One delivery under a policy on pika: does what the core decides, and never waits."""

import contextlib
from collections.abc import Callable
from copy import copy as shallow
from functools import partial

from pika.exceptions import AMQPError
from pika.spec import Basic

from otel_waybill.clients.pika import live, standby
from otel_waybill.clients.pika.copies import Copy, copies
from otel_waybill.clients.pika.loop import call_later, call_threadsafe, remove_timeout
from otel_waybill.clients.pika.read import (
    Pushed,
    ambient,
    copied,
    delivery,
    encoded_size,
    endpoint,
    original,
    underlying,
)
from otel_waybill.clients.pika.settle import Call, for_handler, ledgers, send
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


class Guard:
    """One delivery under a policy; a performer for the driver and an entry for the ledger."""

    _counted = False
    """Whether the delivery counted as consumed before it came here."""

    def __init__(self, terms: Terms, handler: Handler, queue: str, pushed: Pushed) -> None:
        channel, method, properties, body = pushed
        recorder = live.recorder()
        facts = delivery(method, properties, queue)
        arrival = arrive(facts, ambient(channel), recorder, belief=terms.spec.belief)
        self.execution = execution(terms, arrival)
        self._terms = terms
        self._handler = handler
        self._channel = channel
        self._impl = underlying(channel)
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
            endpoint(self._impl),
            counted=self._counted or isinstance(method, Basic.GetOk),
        )
        self._started = False
        self._told: Callable[[], None] | None = None
        self._later: Answer | None = None
        self._held: Answer | None = None
        self._timer: object = None
        self.entrusted = False
        self.settled: Settled | None = None
        self.outcome: Outcome | None = None
        ledgers.of(self._impl).entries[self._tag] = self
        ledgers.note(self._impl, self._message)

    @property
    def busy(self) -> bool:
        """Whether its policy is at work on it, and not merely somewhere up in the calls that led here."""
        return self.outcome is None and (self._held is not None or not self.entrusted)

    def drive(self) -> None:
        """Start; the delivery then goes its way by callbacks."""
        if self._told is None:
            self._started = True
            self._later = drive(self.execution, self, None if self._channel.is_open else Gone())

    def finish(self, told: Callable[[], None]) -> None:
        """Come to an end, and call *told*: what waits is given back, what runs or is copied may end first."""
        self._told = told
        if not self._started:
            self._send(NACK, partial(self._impl.basic_nack, self._tag, requeue=True))
            ledgers.of(self._impl).close(self._tag)
            told()
        elif not self.entrusted:
            self.interrupt()

    def interrupt(self) -> None:
        """Wait no longer, for a handler in a thread neither, and give the delivery back."""
        held = self._release()
        if held is not None:
            self.entrusted = False
            held(Cancelled(self.settled, copied=self._copy is not None and self._copy.safe))

    def note(self, settled: Settled) -> None:
        """Take note of what the program said about this delivery, in its handler or later."""
        self.settled = settled
        if self.outcome is not None and self._later is not None:  # it was left open
            self.entrusted = False
            self._later(Returned(settled))

    def gone(self) -> None:
        """Take note that the channel is closed: nothing that it waited for will come."""
        held = self._release()
        if held is not None:
            held(Gone())
        elif self.entrusted and self.outcome is not None:
            ledgers.of(self._impl).close(self._tag)

    def emit(self, event: Event) -> None:
        """Tell whoever listens what happened to this delivery."""
        self._journal.emit(event)

    def wait(self, wait: Wait, answer: Answer) -> None:
        """Hold the delivery on a timer of its connection, or until the bell rings."""
        # One object for each wait: a bell that rings late rings for nobody.
        hold = self._held = partial(answer)
        if self._told is not None:
            self.interrupt()
            return
        if not self._channel.is_open:
            self.gone()
            return
        over = partial(self._waited, hold)
        self._timer = call_later(self._channel, wait.seconds, over)
        if wait.bell is not None:
            # Whoever rings may do so in another thread, and in the context of another message.
            wait.bell.listen(partial(call_threadsafe, self._channel, over))

    def attempt(self, run: Run, answer: Answer) -> None:
        """Call the handler where pika calls it."""
        self._begin(run)
        try:
            self._call(run, for_handler(self._channel))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is a failure of this attempt
            answer(self._end(error))
        except BaseException as error:
            answer(self._end(error))
            raise
        else:
            answer(self._end(None))

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
        channel, tag = self._impl, self._tag
        if verdict.outcome.result is Result.DROPPED:
            self._journal.open()  # which neither a handler nor a copy has done
        if isinstance(verdict, Ack):
            self._send(ACK, partial(channel.basic_ack, tag))
        elif isinstance(verdict, GiveBack):
            if verdict.standby is not None:
                self._stand_by(verdict.standby)
            self._send(NACK, partial(channel.basic_nack, tag, requeue=True))
        if verdict.outcome.result is Result.OPEN:
            self.entrusted = True
        else:
            ledgers.of(channel).close(tag)
        self._journal.close(verdict.outcome)
        self.outcome = verdict.outcome
        if self._told is not None:
            self._told()

    def _stand_by(self, seconds: float) -> None:
        if self._channel.is_open:
            with contextlib.suppress(AMQPError):
                standby.leave(self._channel, getattr(self._method, "consumer_tag", ""), seconds)

    def _begin(self, run: Run) -> None:
        self.settled, self.entrusted = None, True
        self._journal.open(run)

    def _call(self, run: Run, channel: object) -> None:
        with self._journal.current(run), self._terms.lent(run.permit):
            handler = self._terms.handler(run, self._handler)
            handler(channel, self._method, self._properties, self._body)

    def _end(self, error: BaseException | None) -> Report:
        self.entrusted = False
        if error is None:
            return Returned(self.settled)
        self._journal.error(error)
        return Raised(error, self.settled) if isinstance(error, Exception) else Cancelled(self.settled)

    def _publish(self, copy: Republish, headers: dict[str, object]) -> Copy | None:
        frame_max = self._impl.connection.params.frame_max
        fit = fitting(headers, lambda tried: encoded_size(copied(self._wire, tried)), frame_max)
        if fit is None:
            return None
        properties = copied(self._wire, fit)
        return copies(self._channel).publish(copy.exchange, copy.routing_key, self._body, properties)

    def _waited(self, hold: Answer) -> None:
        if self._held is hold:
            self._release()
            hold(self._unless_gone(Waited()))

    def _release(self) -> Answer | None:
        """Hold the delivery no longer, and return who waits to hear of it, if anybody does."""
        held, self._held = self._held, None
        timer, self._timer = self._timer, None
        # Of a connection that is closed nothing is left.
        if timer is not None and self._impl.connection.is_open:
            remove_timeout(self._channel, timer)
        return held

    def _send(self, operation: Operation, call: Call) -> None:
        # On a closed channel there is nothing to say: the broker has taken the delivery back.
        if self._channel.is_open:
            with contextlib.suppress(AMQPError), self._journal.current(), passthrough():
                send(operation, self._impl, self._message, call)

    def _unless_gone(self, report: Report) -> Report:
        return report if self._channel.is_open else Gone()
