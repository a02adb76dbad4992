"""The waybill of the running code.

It lives in the OpenTelemetry context, so it follows the code wherever the current span does, and in its
baggage, so that it crosses HTTP and gRPC as well. Baggage goes to whomever the program calls: put no
secret in a request id.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from opentelemetry import baggage
from opentelemetry import context as otel
from opentelemetry.context import Context

from otel_waybill.core.belief import LONGEST_DEADLINE, SKEW_TOLERANCE
from otel_waybill.core.delivery import Instant
from otel_waybill.core.headers import number, text
from otel_waybill.core.waybill import (
    BAGGAGE_KEYS,
    EMPTY,
    LARGEST_COUNT,
    LONGEST_REQUEST_ID,
    Waybill,
    decode_end_to_end,
    end_to_end_headers,
    expiration,
)
from otel_waybill.errors import DeadlineExceeded, InvalidRequest

if TYPE_CHECKING:
    from contextvars import Token

_KEY = otel.create_key("waybill")
_OURS = frozenset(BAGGAGE_KEYS.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The waybill of the running code, and what this process may do about its deadline.

    Attributes:
        waybill: what travels.
        due: monotonic time at which the deadline passes here, or None.
        enforced: whether a block of this process set it, so that publishing later is refused; a deadline
            that was merely inherited refuses nothing.
        expires: whether what is published is to expire in its queue when the deadline passes.
    """

    waybill: Waybill = EMPTY
    due: float | None = None
    enforced: bool = False
    expires: bool = False


_NOTHING = Running()


class Block:
    """A `with` block in which other facts hold; what it changes is undone however it is left.

    The facts are those of the moment at which it is entered, whenever it was made.
    """

    def __init__(self, inside: Callable[[Context], Context]) -> None:
        """Make a block in which the context is what *inside* makes of the one around it."""
        self._inside = inside
        self._tokens: list[Token[Context]] = []

    def __enter__(self) -> Self:
        self._tokens.append(otel.attach(self._inside(otel.get_current())))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        otel.detach(self._tokens.pop())


class Attached:
    """A `with` block in which *context* is the current one."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> Context:
        self._token: Token[Context] = otel.attach(self._context)
        return self._context

    def __exit__(self, *_: object) -> None:
        otel.detach(self._token)


def running(context: Context | None = None) -> Running:
    """Return what runs in *context*, by default the current one; what came by baggage alone is inherited."""
    stored = otel.get_value(_KEY, context)
    if isinstance(stored, Running):
        return stored
    carried = baggage.get_all(context)
    if _OURS.isdisjoint(carried):
        return _NOTHING
    now = Instant(time.monotonic(), time.time())
    return inherited(decode_end_to_end({}, carried, now=now.wall).waybill, now)


def inherited(waybill: Waybill, received: Instant) -> Running:
    """Return *waybill* as what runs after it was *received* from elsewhere.

    Its deadline refuses nothing, and passes here a little later, because clocks differ; what is sent on
    carries the one that came.
    """
    due = None
    if waybill.deadline is not None:
        due = received.monotonic + waybill.deadline - received.wall + SKEW_TOLERANCE
    return Running(waybill=waybill, due=due)


def entered(state: Running, context: Context) -> Context:
    """Return *context* with *state* running in it, and with the baggage that says the same."""
    return otel.set_value(_KEY, state, _with_baggage(state.waybill, context))


def cleared(context: Context) -> Context:
    """Return *context* with no waybill in it, so that a message starts with what it brought itself."""
    if not context:
        return context
    carried = baggage.get_all(context)
    if not _OURS.isdisjoint(carried):
        for name in _OURS:
            context = baggage.remove_baggage(name, context)
    return context if otel.get_value(_KEY, context) is None else otel.set_value(_KEY, None, context)


def request(
    *,
    id: str | None = None,  # noqa: A002 - the word users know
    deadline: float | None = None,
    retry_limit: int | None = None,
    expire: bool = False,
) -> Block:
    """Open a block whose publishes, and whatever is done on their behalf, share these facts.

    Once the deadline has passed, publishing inside the block raises `DeadlineExceeded` in a program that is
    instrumented. Blocks nest: a deadline or a limit can only be tightened, never relaxed.

    Args:
        id: names the request in every message and trace; printable ASCII, 1 to 128 characters.
        deadline: seconds from when the block is entered, above 0 and at most 86400.
        retry_limit: retries that the request may cost on all hops together, 0 or more.
        expire: whether messages published in the block, in a program that is instrumented, also get the
            property ``expiration`` from the deadline, be it stated here, around or inherited. The broker then
            drops them where nobody waits for them any more, so ask for it only where their queue has a
            dead-letter exchange, or where they may be lost
            (https://www.rabbitmq.com/docs/ttl#per-message-ttl-in-publishers).

    Raises:
        InvalidRequest: an argument is out of its range.
    """
    _check_request(id, deadline, retry_limit)

    def inside(around: Context) -> Context:
        return entered(_tightened(running(around), id, deadline, retry_limit, expire=expire), around)

    return Block(inside)


def deadline(seconds: float) -> Block:
    """Open a block that must be done in *seconds*: the short form of ``request(deadline=seconds)``."""
    return request(deadline=seconds)


def detached() -> Block:
    """Open a block for facts that outlive the request: no deadline, retries or limit; trace and id stay."""
    return Block(lambda around: entered(Running(waybill=running(around).waybill.detached()), around))


def current() -> Waybill:
    """Return the waybill of the running code; an empty one where there is none."""
    return running().waybill


def remaining() -> float | None:
    """Return the seconds left until the deadline, negative once it has passed, or None without one."""
    due = running().due
    return None if due is None else due - time.monotonic()


def check() -> None:
    """Return if there is time left, or no deadline.

    Raises:
        DeadlineExceeded: the deadline of the running work has passed.
    """
    _check(running())


def check_publish(context: Context | None = None) -> Running:
    """Return what runs, unless a block or a policy of this process refuses to publish now.

    Raises:
        DeadlineExceeded: the deadline has passed, and nothing was published.
    """
    state = running(context)
    if state.enforced:
        _check(state)
    return state


def expiration_in(state: Running, own: str | None) -> str | None:
    """Return the ``expiration`` of a message published in *state* that has its *own* or None; in ms."""
    if state.waybill.deadline is None:
        return own
    return expiration(state.waybill.deadline - time.time(), own)


def _tightened(
    outer: Running, identity: str | None, seconds: float | None, retry_limit: int | None, *, expire: bool
) -> Running:
    waybill, due, enforced = outer.waybill, outer.due, outer.enforced
    if identity is not None:
        waybill = replace(waybill, request_id=identity)
    if retry_limit is not None:
        known = waybill.retry_limit
        waybill = replace(waybill, retry_limit=retry_limit if known is None else min(known, retry_limit))
    if seconds is not None:
        waybill = waybill.shortened(time.time() + seconds)
        mine = time.monotonic() + seconds
        due = mine if due is None else min(due, mine)
        enforced = True
    return Running(waybill=waybill, due=due, enforced=enforced, expires=outer.expires or expire)


def _check(state: Running) -> None:
    if state.due is not None and (overdue := time.monotonic() - state.due) >= 0:
        raise DeadlineExceeded(overdue)


def _check_request(identity: str | None, seconds: float | None, retry_limit: int | None) -> None:
    if identity is not None and text(identity, LONGEST_REQUEST_ID) != identity:
        msg = f"need id of 1 to {LONGEST_REQUEST_ID} printable ASCII characters, got {identity!r:.99}"
        raise InvalidRequest(msg)
    if seconds is not None and not 0 < seconds <= LONGEST_DEADLINE:
        msg = f"need 0 < deadline <= {LONGEST_DEADLINE:.0f} (seconds from now), got {seconds!r}"
        raise InvalidRequest(msg)
    if retry_limit is not None and number(retry_limit, 0, LARGEST_COUNT) != retry_limit:
        msg = f"need 0 <= retry_limit <= {LARGEST_COUNT}, got {retry_limit!r}"
        raise InvalidRequest(msg)


def _with_baggage(waybill: Waybill, context: Context) -> Context:
    """Return *context* with our members in its baggage, first: when it is full the last ones are dropped."""
    facts = end_to_end_headers(waybill, time.time())
    carried = baggage.get_all(context)
    if not facts and _OURS.isdisjoint(carried):
        return context
    ours = {BAGGAGE_KEYS[name]: value for name, value in facts.items()}
    members = ours | {name: value for name, value in carried.items() if name not in _OURS}
    context = baggage.clear(context)
    for name, value in members.items():
        context = baggage.set_baggage(name, value, context)
    return context
