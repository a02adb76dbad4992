"""The demo, run as its user runs it: what it prints, how it ends and what it leaves behind."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pika
import pytest

REPOSITORY = Path(__file__).parents[2]
ORDERS = [f"order-{n}" for n in range(1, 10)]
RETRIED, LATE = "order-2", "order-3"


@dataclass
class Span:
    """What this test needs of a span in OTLP-JSON."""

    service: str
    raw: dict[str, Any]
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def is_attempt(self) -> bool:
        """Whether it is a run of a handler, or the refusal of one."""
        return "process" == self.attributes["messaging.operation.type"]


@dataclass
class Run:
    """One run of the demo."""

    code: int
    output: str
    folder: Path
    spans: list[Span] = field(default_factory=list)

    def journal(self, service: str, fact: str) -> list[str]:
        """Return the orders about which *service* noted *fact*."""
        lines = (self.folder / "journal" / f"{service}.jsonl").read_text().splitlines()
        return [entry["order"] for entry in map(json.loads, lines) if entry["fact"] == fact]

    def traces(self) -> dict[str, list[Span]]:
        """Return the spans of each order, by start."""
        traces = defaultdict(list)
        for span in sorted(self.spans, key=lambda span: int(span.raw["startTimeUnixNano"])):
            traces[span.raw["traceId"]].append(span)
        named: dict[str, list[Span]] = {}
        for spans in traces.values():
            (order,) = {
                s.attributes["waybill.request_id"] for s in spans if "waybill.request_id" in s.attributes
            }
            assert order not in named, f"{order} has more than one trace"
            named[order] = spans
        return named

    def attempts(self, order: str, service: str) -> list[Span]:
        """Return what *service* did with *order*."""
        return [span for span in self.traces()[order] if span.service == service and span.is_attempt]


@pytest.fixture(scope="module")
def run(amqp_url: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The demo has run, once for all tests, on the broker of this session."""
    folder = tmp_path_factory.mktemp("demo")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "docs/demo", "--out", str(folder)],
        cwd=REPOSITORY,
        env=environ | {"AMQP_URL": amqp_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )
    assert 0 == done.returncode, done.stdout
    export = json.loads((folder / "traces.otlp.json").read_text())
    return Run(code=done.returncode, output=done.stdout, folder=folder, spans=list(spans(export)))


def spans(export: dict[str, Any]) -> Iterator[Span]:
    """Yield the spans of an OTLP-JSON export."""
    for resource in export["resourceSpans"]:
        service = attributes(resource["resource"])["service.name"]
        for scope in resource["scopeSpans"]:
            yield from (Span(service, raw, attributes(raw)) for raw in scope["spans"])


def attributes(bearer: dict[str, Any]) -> dict[str, str]:
    """Return the attributes of a resource, span or event, every value as text."""
    return {pair["key"]: str(next(iter(pair["value"].values()))) for pair in bearer.get("attributes", ())}


def test_the_last_line_is_the_sum(run: Run) -> None:
    """Nine orders: one is parked, the others are handled, none is lost."""
    assert "published 9 = handled 8 + parked 1, lost 0" == run.output.rstrip().splitlines()[-1]


def test_the_retried_order_has_three_attempts_and_growing_waits(run: Run) -> None:
    """Two fail and are retried by the broker, the third succeeds, all in one trace."""
    first, second, third = run.attempts(RETRIED, "payments")

    assert ["1", "2", "3"] == [span.attributes["waybill.attempt"] for span in (first, second, third)]
    assert ["retried", "retried", "handled"] == [
        span.attributes["waybill.outcome"] for span in (first, second, third)
    ]
    assert [2, 2, 0] == [span.raw["status"].get("code", 0) for span in (first, second, third)]
    assert 0.7 < wait(first, second)
    assert 1.4 < wait(second, third)


def test_the_late_order_is_parked_and_never_charged(run: Run) -> None:
    """Payments says why, and its handler has not run."""
    (refusal,) = run.attempts(LATE, "payments")

    assert ("parked", "deadline") == (
        refusal.attributes["waybill.outcome"],
        refusal.attributes["waybill.reason"],
    )
    assert 0 > int(refusal.attributes["waybill.deadline_remaining_ms"])
    assert LATE not in run.journal("payments", "charged")
    assert [] == run.attempts(LATE, "mail")


def test_the_breaker_opens_probes_and_closes(run: Run) -> None:
    """The spans tell the whole history of the breaker, each state following the one before."""
    events = [
        event
        for span in run.spans
        for event in span.raw.get("events", ())
        if "waybill.breaker" == event["name"]
    ]
    changes = [attributes(event) for event in sorted(events, key=lambda event: int(event["timeUnixNano"]))]
    states = [change["waybill.breaker.state"] for change in changes]

    assert {"gateway"} == {change["waybill.breaker.name"] for change in changes}
    assert ["closed", *states[:-1]] == [change["waybill.breaker.previous_state"] for change in changes]
    assert ["open", "half-open", "open"] == states[:3]
    assert ["half-open", "closed"] == states[-2:]


def test_orders_were_held_during_the_outage(run: Run) -> None:
    """Whoever waited for the breaker says for how long."""
    held = [
        int(span.attributes.get("waybill.held_ms", 0)) for span in run.spans if "payments" == span.service
    ]

    assert 1000 < max(held)


def test_every_order_is_one_trace_through_every_service(run: Run) -> None:
    """One trace for each order, and no span whose parent is missing."""
    traces = run.traces()

    assert sorted(ORDERS) == sorted(traces)
    for order, trace in traces.items():
        expected = {"shop", "orders", "payments"} | ({"mail"} if order != LATE else set())
        assert expected == {span.service for span in trace}, order
        known = {span.raw["spanId"] for span in trace}
        parents = [span.raw.get("parentSpanId", "") for span in trace]
        assert 1 == parents.count(""), order
        assert known >= set(parents) - {""}, order


def test_the_export_is_otlp_json(run: Run) -> None:
    """Ids are hex and enumerations are integers; each service appears once."""
    export = json.loads((run.folder / "traces.otlp.json").read_text())
    services = [attributes(resource["resource"])["service.name"] for resource in export["resourceSpans"]]

    assert ["mail", "orders", "payments", "shop"] == sorted(services)
    for span in run.spans:
        assert 16 == len(bytes.fromhex(span.raw["traceId"]))
        assert 8 == len(bytes.fromhex(span.raw["spanId"]))
        assert isinstance(span.raw["kind"], int)


def test_the_picture_loads_nothing_from_elsewhere(run: Run) -> None:
    """The SVG tells the same story, and stands on its own."""
    picture = (run.folder / "traces.svg").read_text()

    assert picture.startswith("<svg")
    assert "url(http" not in picture
    assert "gateway&#160;outage" in picture


def test_no_queue_of_the_run_stays_behind(run: Run, amqp_url: str) -> None:
    """Every queue that a span names is gone."""
    names = {span.attributes["messaging.destination.name"].split(":")[-1] for span in run.spans}
    queues = {name for name in names if name.startswith("demo.")}
    assert 3 == len(queues)
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    for queue in (*queues, *(f"{name}.parked" for name in queues)):
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="404"):
            connection.channel().queue_declare(queue, passive=True)
    connection.close()


def wait(before: Span, after: Span) -> float:
    """Return the seconds from the start of one span to that of another.

    A retry is on its way before the span of its attempt ends, which is with the confirm.
    """
    return (int(after.raw["startTimeUnixNano"]) - int(before.raw["startTimeUnixNano"])) / 1e9
