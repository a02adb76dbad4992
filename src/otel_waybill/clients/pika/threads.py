"""Work that a worker thread hands back to the thread of its connection, which alone may use a channel."""

from collections.abc import Callable

from opentelemetry import context as otel
from opentelemetry.context import Context
from pika.adapters.blocking_connection import BlockingConnection

from otel_waybill.clients.pika import live
from otel_waybill.context import Attached
from otel_waybill.patching import argument, replaced


def add_callback_threadsafe(
    wrapped: Callable[..., None],
    _: BlockingConnection,
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> None:
    """Stand in for `BlockingConnection.add_callback_threadsafe`: what is done there belongs to who asked."""
    callback, context = argument(args, kwargs, 0, "callback"), otel.get_current()
    # A thread that was started without a context has none to hand on.
    if context and callable(callback) and not live.recorder().silent:
        args, kwargs = replaced(args, kwargs, 0, "callback", _HandedOn(callback, context))
    return wrapped(*args, **kwargs)


class _HandedOn:
    """A callback that runs in the context in which it was handed on."""

    def __init__(self, callback: Callable[[], object], context: Context) -> None:
        self.__wrapped__ = callback
        self._context = context

    def __call__(self) -> object:
        """Run it as pika does."""
        with Attached(self._context):
            return self.__wrapped__()
