"""Handlers in threads, while the connection's thread, which alone may use pika, does all the rest."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from threading import Thread, get_ident

from pika.channel import Channel
from pika.spec import BasicProperties

from otel_waybill.clients.pika.loop import call_threadsafe
from otel_waybill.clients.pika.read import AnyChannel, underlying
from otel_waybill.clients.pika.settle import GuardedChannel, for_handler
from otel_waybill.clients.shared.ledger import Owned
from otel_waybill.errors import ThreadBusy, WrongThread

Call = Callable[[], None]
Ended = Callable[[BaseException | None], None]


class Workers:
    """The threads in which the handlers of one queue on one channel run, and the way back from there.

    A delivery asks to be admitted before anything is decided about it, so that its deadline and its breaker
    are asked when its handler can start. Only `hand_over` and `publish` may be called by a handler.
    """

    def __init__(self, surface: AnyChannel, queue: str, count: int) -> None:
        """Have *count* threads for *queue*; this one is the connection's."""
        self._surface = surface
        self._thread = get_ident()
        self._count = count
        self._name = f"waybill-{queue}"
        self._running = 0
        self._waiting: deque[Call] = deque()
        self._handed: deque[Call] = deque()
        # Its threads are joined when the interpreter exits: a handler that runs is not torn apart.
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=self._name)

    def admit(self, step: Call) -> None:
        """Take *step*, which may `start` a handler, once a thread is free."""
        self._waiting.append(step)
        self._next()

    def start(self, handler: Call, ended: Ended) -> None:
        """Run *handler* in a thread, in a copy of this context, and call *ended* here with what it raised."""
        self._running += 1
        here = copy_context()

        def back(error: BaseException | None) -> None:
            here.run(self._ended, ended, error)

        # What a handler leaves in its context is nothing to the next one.
        run = partial(here.copy().run, self._run, handler, back)
        try:
            self._executor.submit(run)
        except RuntimeError:
            # The main thread has ended, and with it every executor; that of the connection goes on.
            Thread(target=run, name=f"{self._name}_late", daemon=False).start()

    def hand_over(self, call: Call) -> None:
        """Have *call* made by the connection's thread, after all that was handed over before.

        Raises:
            ConnectionWrongStateError: the connection is closed.
        """
        # In a queue of our own: pika's timers, by which it does this, keep no order within one moment.
        self._handed.append(call)
        call_threadsafe(self._surface, self._take)

    def publish(self, call: Call, timeout: float) -> None:
        """Have *call* made by the connection's thread in this context, and return or raise what it does.

        Raises:
            ThreadBusy: it was not made within *timeout* seconds.
        """
        if get_ident() == self._thread:
            call()
            return
        answer: Future[None] = Future()
        self.hand_over(partial(copy_context().run, _answered, call, answer))
        wait([answer], timeout)
        if answer.cancel() or not answer.done():
            raise ThreadBusy(timeout)
        answer.result()

    @property
    def waited_for(self) -> bool:
        """Whether something has been handed over and not been done yet."""
        return bool(self._handed)

    def catch_up(self) -> None:
        """Do all that has been handed over, without waiting until pika comes to it."""
        while self._handed:
            self._take()

    def close(self) -> None:
        """Let nothing more start; what runs ends by itself, and nobody hears of it."""
        self._waiting.clear()
        self.catch_up()
        self._executor.shutdown(wait=not self._running)

    def _run(self, handler: Call, back: Ended) -> None:
        error = None
        try:
            handler()
        except BaseException as raised:  # noqa: BLE001 - the connection's thread decides about it
            error = raised
        with suppress(Exception):  # the connection, or its loop, is closed: each adapter says so in its way
            self.hand_over(partial(back, error))

    def _ended(self, ended: Ended, error: BaseException | None) -> None:
        self._running -= 1
        try:
            ended(error)
        finally:
            self._next()

    def _next(self) -> None:
        while self._waiting and self._running < self._count:
            self._waiting.popleft()()

    def _take(self) -> None:
        if self._handed:
            self._handed.popleft()()


def _answered(call: Call, answer: "Future[None]") -> None:
    """Make *call* unless nobody waits any more, and *answer* what came of it."""
    if not answer.set_running_or_notify_cancel():
        return
    try:
        call()
    except BaseException as error:
        answer.set_exception(error)
        if not isinstance(error, Exception):
            raise  # an interruption is for this thread, too
    else:
        answer.set_result(None)


_READABLE = frozenset({"channel_number", "is_closed", "is_closing", "is_open"})


class WorkerChannel:
    """The channel that a handler in a thread gets: it settles and publishes, by the connection's thread."""

    def __init__(self, surface: AnyChannel, workers: Workers, timeout: float) -> None:
        """Stand for *surface*; a publish waits for it no longer than *timeout* seconds."""
        self._surface = surface
        self._workers = workers
        self._timeout = timeout

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:  # noqa: FBT001, FBT002 - pika's signature
        """Acknowledge, soon."""
        self._settle(lambda channel: channel.basic_ack(delivery_tag, multiple))

    def basic_nack(self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True) -> None:  # noqa: FBT001, FBT002 - pika's signature
        """Leave the delivery to the policy, soon, as a failure."""
        self._settle(lambda channel: channel.basic_nack(delivery_tag, multiple, requeue))

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:  # noqa: FBT001, FBT002 - pika's signature
        """Leave the delivery to the policy, soon, as a failure."""
        self._settle(lambda channel: channel.basic_reject(delivery_tag, requeue))

    def basic_publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: BasicProperties | None = None,
        mandatory: bool = False,  # noqa: FBT001, FBT002 - pika's signature
    ) -> None:
        """Publish as the real channel does; in confirm mode a blocking one waits for the confirm.

        Raises:
            ThreadBusy: the connection's thread was busy elsewhere. What it had not begun is not published.
            AMQPError: whatever the real channel raises, `UnroutableError` and `NackError` among them.
        """
        call = partial(self._surface.basic_publish, exchange, routing_key, body, properties, mandatory)
        self._workers.publish(call, self._timeout)

    def __getattr__(self, name: str) -> object:
        if name in _READABLE:
            return getattr(self._surface, name)
        raise WrongThread(name)

    def _settle(self, call: Callable[[AnyChannel | GuardedChannel], None]) -> None:
        def settled() -> None:
            # The broker takes back what a closed channel has delivered.
            if self._surface.is_open:
                call(for_handler(self._surface))

        with suppress(Exception):  # the connection is closed, as above
            self._workers.hand_over(partial(copy_context().run, settled))


_workers: "Owned[dict[str, Workers]]" = Owned("workers", dict)


def workers(surface: AnyChannel, queue: str, count: int) -> Workers:
    """Return the threads for the handlers of *queue* on *surface*, *count* if there are none yet."""
    known = _workers.of(underlying(surface))
    if queue not in known:
        known[queue] = Workers(surface, queue, count)
    return known[queue]


def pools(channel: Channel) -> Iterable[Workers]:
    """Return the threads of all queues on *channel*."""
    return (_workers.seen(channel) or {}).values()


def close(channel: Channel) -> None:
    """Let the threads of *channel*, which is closed, end."""
    for each in pools(channel):
        each.close()
