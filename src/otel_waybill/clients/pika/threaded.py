"""One delivery under a policy whose handler runs in a thread."""

from functools import partial

from otel_waybill.clients.pika.enforce import Guard
from otel_waybill.clients.pika.read import Pushed
from otel_waybill.clients.pika.workers import WorkerChannel, workers
from otel_waybill.core.verdicts import Run
from otel_waybill.resilience.guarded import Handler, Terms
from otel_waybill.resilience.port import Answer


class Threaded(Guard):
    """A delivery whose handler runs in a thread."""

    def __init__(self, terms: Terms, handler: Handler, queue: str, pushed: Pushed) -> None:
        super().__init__(terms, handler, queue, pushed)
        self._workers = workers(self._channel, queue, terms.spec.workers)

    def drive(self) -> None:
        """Start once a thread is free."""
        self._workers.admit(super().drive)

    def attempt(self, run: Run, answer: Answer) -> None:
        """Call the handler in a thread; should the channel go away, nobody waits for it."""
        self._begin(run)
        self._held = answer
        channel = WorkerChannel(self._channel, self._workers, self._terms.spec.confirm_timeout)
        self._workers.start(partial(self._call, run, channel), self._ended)

    def _ended(self, error: BaseException | None) -> None:
        answer = self._release()
        if answer is None:
            return
        answer(self._end(error))
        if error is not None and not isinstance(error, Exception):
            raise error

    def _waited(self, hold: Answer) -> None:
        if self._copy is None:
            self._workers.admit(partial(super()._waited, hold))
        else:
            super()._waited(hold)  # it is the copy that is tried again
