"""Spans as the pictures need them, read from an OTLP-JSON export; nothing in here draws."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

PRODUCER: Final = 4
CONSUMER: Final = 5
ERROR: Final = 2
NANO: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A span event: something that happened at one moment."""

    at: float
    name: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One span; times are seconds since the epoch."""

    trace: str
    id: str
    parent: str | None
    service: str
    name: str
    kind: int
    start: float
    end: float
    failed: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A breaker went from one state to another."""

    at: float
    breaker: str
    before: str
    after: str


def read(export: Mapping[str, Any]) -> list[Span]:
    """Return every span of an OTLP-JSON *export*, by start."""
    spans: list[Span] = []
    for resource in export["resourceSpans"]:
        service = _attributes(resource.get("resource", {})).get("service.name", "?")
        for scope in resource["scopeSpans"]:
            spans.extend(_span(service, raw) for raw in scope["spans"])
    return sorted(spans, key=lambda span: span.start)


def by_trace(spans: Iterable[Span]) -> dict[str, list[Span]]:
    """Return *spans* grouped by trace id, traces by their first start."""
    traces: defaultdict[str, list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start):
        traces[span.trace].append(span)
    return dict(traces)


def request_id(spans: Iterable[Span]) -> str | None:
    """Return the request that the spans of one trace belong to, if any of them says so."""
    return next(
        (span.attributes["waybill.request_id"] for span in spans if "waybill.request_id" in span.attributes),
        None,
    )


def changes(spans: Iterable[Span]) -> list[Change]:
    """Return what the breakers did, in order."""
    found = [
        Change(
            at=mark.at,
            breaker=mark.attributes["waybill.breaker.name"],
            before=mark.attributes["waybill.breaker.previous_state"],
            after=mark.attributes["waybill.breaker.state"],
        )
        for span in spans
        for mark in span.marks
        if mark.name == "waybill.breaker"
    ]
    return sorted(found, key=lambda change: change.at)


def orphans(spans: Iterable[Span]) -> list[Span]:
    """Return the spans whose parent is not among *spans*."""
    spans = list(spans)
    known = {(span.trace, span.id) for span in spans}
    return [span for span in spans if span.parent is not None and (span.trace, span.parent) not in known]


def _span(service: str, raw: Mapping[str, Any]) -> Span:
    return Span(
        trace=raw["traceId"],
        id=raw["spanId"],
        parent=raw.get("parentSpanId") or None,
        service=service,
        name=raw["name"],
        kind=raw.get("kind", 0),
        start=int(raw["startTimeUnixNano"]) * NANO,
        end=int(raw["endTimeUnixNano"]) * NANO,
        failed=raw.get("status", {}).get("code") == ERROR,
        attributes=_attributes(raw),
        marks=tuple(
            Mark(at=int(event["timeUnixNano"]) * NANO, name=event["name"], attributes=_attributes(event))
            for event in raw.get("events", ())
        ),
    )


def _attributes(bearer: Mapping[str, Any]) -> dict[str, Any]:
    return {pair["key"]: _value(pair["value"]) for pair in bearer.get("attributes", ())}


def _value(raw: Mapping[str, Any]) -> Any:  # noqa: ANN401 - what an attribute can be
    if "intValue" in raw:
        return int(raw["intValue"])
    if "arrayValue" in raw:
        return [_value(item) for item in raw["arrayValue"].get("values", ())]
    return next(iter(raw.values()), None)
