"""Do no harm: a fault of this package is logged once, and the program goes on as if we were not there."""

import contextlib
import logging
import traceback
from types import TracebackType
from typing import ClassVar

_log = logging.getLogger("otel_waybill")
_reported: set[tuple[str, str, str, int]] = set()
_warned: set[str] = set()


class harmless:  # noqa: N801 - reads as a promise at the place of use, like contextlib.suppress
    """Swallow and log any ``Exception`` that our own code raises in this block.

    Never put the user's code inside: its exceptions are its own, and so is what this package raises on
    purpose. ``BaseException`` (interrupts, cancellation) always passes. An instance keeps no state: make
    it once, at import, and enter it as often and from as many threads as you like.

    Args:
        what: the activity, as in ``"injecting headers"``; the log line says that it failed.
    """

    __slots__ = ("_what",)

    loud: ClassVar[bool] = False

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if kind is None or self.loud or not issubclass(kind, Exception):
            return False
        # Reporting is our code too: a log filter that raises must not reach the user through us.
        with contextlib.suppress(Exception):
            _report(self._what, kind, trace)
        return True


def warn_once(message: str, *facts: object) -> None:
    """Log the warning *message* with its *facts*, once in a process whatever the facts."""
    if message not in _warned:
        _warned.add(message)
        _log.warning(message, *facts)


def reraise(*, on: bool) -> None:
    """Let the faults of this package through, so that its own tests see them, or hide them again."""
    harmless.loud = on


def _report(what: str, kind: type[BaseException], trace: TracebackType | None) -> None:
    """Log one fault with its traceback, unless the same one was logged before.

    The traceback is rendered here, as places and source lines only: the text of an exception may quote a
    message, and whoever gets ``exc_info`` (Sentry, for one) reads message bodies from the frames' variables.
    """
    frames = traceback.extract_tb(trace)
    # Without a frame there is no line to tell faults apart by; the interpreter always gives one.
    place = (frames[-1].filename, frames[-1].lineno or 0) if frames else ("", 0)
    key = (what, kind.__qualname__, *place)
    if key in _reported:
        return
    _reported.add(key)
    _log.error(
        "otel-waybill: %s failed; your program goes on without it (logged once)\n"
        "Traceback (most recent call last):\n%s%s.%s",
        what,
        "".join(traceback.format_list(frames)),
        kind.__module__,
        kind.__qualname__,
    )
