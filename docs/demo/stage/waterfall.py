"""Where everything in a waterfall stands: rows, stretches of time, columns. Pure; painting is next door.

The rows of a trace follow its tree, with two liberties. Settlements are left out, because each would only
repeat the end of the row above it. And the attempts of one message, each of which is the child of the publish
that put it on the ladder, stand side by side under the hop they belong to.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from stage.spans import CONSUMER, PRODUCER, Change, Span, changes, request_id

_LADDER: Final = re.compile(r"waybill\.delay\.v1\.(\d+)")
_PARKING: Final = "waybill.parking.v1"
_QUEUE: Final = re.compile(r"demo\.(\w+)\.\w+")


class Kind(Enum):
    """What a stretch of time was spent on."""

    WORK = "work"
    FAILED = "failed"
    BACKOFF = "backoff"
    HELD = "held"
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of a row, in seconds since the epoch."""

    kind: Kind
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a waterfall.

    Attributes:
        left: milliseconds left until the deadline when it started, if that is known.
        note: how it ended.
        changes: what a breaker did meanwhile.
    """

    service: str
    label: str
    depth: int = 0
    left: float | None = None
    note: str = ""
    failed: bool = False
    stretches: tuple[Stretch, ...] = ()
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Rows over one axis of time."""

    title: str
    start: float
    end: float
    rows: tuple[Row, ...]
    trace: str | None = None


def chart(title: str, spans: Sequence[Span]) -> Chart:
    """Return the waterfall of the *spans* of one trace."""
    shown = [span for span in spans if span.kind in (PRODUCER, CONSUMER)]
    ids = {span.id for span in shown}
    children: defaultdict[str | None, list[Span]] = defaultdict(list)
    for span in sorted(shown, key=lambda span: (span.start, -span.end)):
        # What has no parent here still gets its row.
        children[span.parent if span.parent in ids else None].append(span)
    rows: list[Row] = []
    todo: list[tuple[Span, Span | None, int]] = [(span, None, 0) for span in reversed(children[None])]
    while todo:
        span, parent, depth = todo.pop()
        following = children[span.id]
        rows.append(_row(span, parent, depth, following))
        todo.extend((child, span, _depth(span, child, depth)) for child in reversed(following))
    return Chart(
        title=title,
        start=min((stretch.start for row in rows for stretch in row.stretches), default=0.0),
        end=max((stretch.end for row in rows for stretch in row.stretches), default=1.0),
        rows=tuple(rows),
        trace=spans[0].trace if spans else None,
    )


def overview(title: str, service: str, traces: Iterable[Sequence[Span]]) -> Chart:
    """Return what *service* did with each of several requests, under the states of its breaker."""
    rows: list[Row] = []
    seen: list[Span] = []
    for spans in traces:
        attempts = [span for span in spans if span.service == service and span.kind == CONSUMER]
        if not attempts:
            continue
        seen.extend(attempts)
        last = attempts[-1]
        rows.append(
            Row(
                service=service,
                label=request_id(spans) or last.trace[:8],
                left=last.attributes.get("waybill.deadline_remaining_ms"),
                note=f"{_ending(last, ())}, attempt {last.attributes.get('waybill.attempt', '?')}",
                failed=last.failed,
                stretches=tuple(stretch for span in spans for stretch in _history(span, spans, service)),
                changes=tuple(changes(attempts)),
            )
        )
    start = min((stretch.start for row in rows for stretch in row.stretches), default=0.0)
    end = max((stretch.end for row in rows for stretch in row.stretches), default=1.0)
    return Chart(title=title, start=start, end=end, rows=(*_breakers(changes(seen), start, end), *rows))


def queue_name(destination: str) -> str:
    """Return the short name of a queue of the demo; anything else stays as it is."""
    found = _QUEUE.search(destination)
    return found[1] if found else destination


def ladder_delay(span: Span) -> int | None:
    """Return for how many milliseconds *span* puts a message on the ladder, or None."""
    found = _LADDER.search(_destination(span)) if span.kind == PRODUCER else None
    return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Axis:
    """Time mapped to half columns."""

    start: float
    end: float
    columns: int

    def half(self, at: float) -> float:
        """Return where *at* is, in half columns from the left edge, never outside."""
        share = (at - self.start) / max(self.end - self.start, 1e-6)
        return min(max(share, 0.0), 1.0) * self.columns * 2

    def span(self, start: float, end: float) -> tuple[int, int]:
        """Return the half columns from *start* to *end*, at least one."""
        first = min(math.floor(self.half(start)), self.columns * 2 - 1)
        return first, max(first + 1, math.ceil(self.half(end)))

    def column(self, at: float) -> int:
        """Return the column that *at* falls into."""
        return min(int(self.half(at) / 2), self.columns - 1)

    def ticks(self, every: int) -> list[tuple[int, float]]:
        """Return (column, seconds from the start) of round times, no closer than *every* columns."""
        length = max(self.end - self.start, 1e-6)
        raw = length * every / self.columns
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
        return [(self.column(self.start + k * step), k * step) for k in range(int(length / step) + 1)]


def _depth(span: Span, child: Span, depth: int) -> int:
    """Return the depth of *child*: retries do not lead deeper."""
    return depth if ladder_delay(child) is not None or ladder_delay(span) is not None else depth + 1


def _row(span: Span, parent: Span | None, depth: int, children: Sequence[Span]) -> Row:
    delay = ladder_delay(span)
    queue = queue_name(_destination(span))
    if delay is not None:
        label = f"wait {delay} ms"
    elif _PARKING in _destination(span):
        label = f"park {queue}.parked"
    elif span.kind == PRODUCER:
        label = f"publish {queue}"
    else:
        label = f"process {queue}"
        if span.attributes.get("waybill.attempt", 1) > 1 or any(map(ladder_delay, children)):
            label += f" #{span.attributes.get('waybill.attempt', 1)}"
    happened = changes([span])
    own = Stretch(Kind.FAILED if span.failed else Kind.WORK, span.start, span.end)
    return Row(
        service=span.service,
        label=label,
        depth=depth,
        left=span.attributes.get("waybill.deadline_remaining_ms"),
        note=_ending(span, happened) if span.kind == CONSUMER else "",
        failed=span.failed,
        stretches=(*_held(span, parent), own, *_backoff(span, children)),
        changes=tuple(happened),
    )


def _ending(span: Span, happened: Sequence[Change]) -> str:
    outcome = str(span.attributes.get("waybill.outcome", "handled"))
    if happened:
        # What the failure did to the breaker says more than the failure.
        return f"{outcome} ◆ {happened[-1].after}"
    why = span.attributes.get("waybill.reason") or span.attributes.get("error.type")
    return f"{outcome}: {str(why).rpartition('.')[2]}" if why else outcome


def _held(span: Span, parent: Span | None) -> tuple[Stretch, ...]:
    held = span.attributes.get("waybill.held_ms", 0) / 1000
    if held <= 0:
        return ()
    # Held after it arrived: not before it was published, nor while it was on the ladder.
    earliest = span.start - held if parent is None else max(span.start - held, parent.end)
    return (Stretch(Kind.HELD, min(earliest, span.start), span.start),)


def _backoff(span: Span, children: Sequence[Span]) -> tuple[Stretch, ...]:
    delay = ladder_delay(span)
    if delay is None:
        return ()
    until = span.end + delay / 1000
    if children:
        until = min(until, max(span.end, children[0].start))
    return (Stretch(Kind.BACKOFF, span.end, until),)


def _history(span: Span, spans: Sequence[Span], service: str) -> tuple[Stretch, ...]:
    if span.service != service:
        return ()
    parent = next((other for other in spans if other.id == span.parent), None)
    if span.kind == CONSUMER:
        return (
            *_held(span, parent),
            Stretch(Kind.FAILED if span.failed else Kind.WORK, span.start, span.end),
        )
    return _backoff(span, [other for other in spans if other.parent == span.id])


def _breakers(happened: Sequence[Change], start: float, end: float) -> list[Row]:
    rows = []
    for name in dict.fromkeys(change.breaker for change in happened):
        own = [change for change in happened if change.breaker == name]
        moments = [start, *(change.at for change in own), end]
        states = [own[0].before, *(change.after for change in own)]
        stretches = tuple(
            Stretch(Kind(state), since, until)
            for state, since, until in zip(states, moments, moments[1:], strict=False)
        )
        note = f"opened {states.count('open')} times, now {states[-1]}"
        rows.append(Row(service="breaker", label=name, note=note, stretches=stretches))
    return rows


def _destination(span: Span) -> str:
    return str(span.attributes.get("messaging.destination.name", span.name))
