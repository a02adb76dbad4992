"""Four services, one journey: ``nox -s demo``, or ``python docs/demo`` where everything is installed."""

import argparse
import io
import json
import secrets
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console
from stage import picture
from stage.books import Books, balance
from stage.journal import Journals
from stage.otlp_json import Json, encode, merge
from stage.processes import DemoError, Services
from stage.queues import Queues
from stage.receiver import Receiver, Relay, relay
from stage.spans import by_trace, orphans, read, request_id
from stage.story import LATE, ORDINARY, OUTAGE, RETRIED, Story
from stage.waterfall import Chart, chart, overview

from otel_waybill.errors import BrokerUnavailable
from otel_waybill.testing.broker import broker

TITLE = "otel-waybill: four services, one RabbitMQ, one trace per order"


def main() -> int:
    """Run the demo; return its exit code."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, default=Path("build/demo"), help="where the files go")
    out: Path = arguments.parse_args().out.absolute()
    console = _console()
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, _leave)
    try:
        return run(console, out)
    except (DemoError, BrokerUnavailable) as error:
        console.print("\nthe demo failed:", style="bold red")
        console.print(str(error), markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("\ninterrupted; nothing is left running")
        return 128 + signal.SIGINT


def run(console: Console, out: Path) -> int:
    """Tell the story, draw it and count; return 0 if the sum holds."""
    journal, logs = out / "journal", out / "logs"
    for folder in (journal, logs):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    journals, forward, name = Journals(journal), relay(), secrets.token_hex(3)
    with broker() as rabbit, Queues(rabbit.url, name) as queues:
        settings = {"AMQP_URL": rabbit.url, "DEMO_RUN": name, "DEMO_JOURNAL": str(journal)}
        with Receiver(forward) as receiver:
            try:
                with Services(logs, receiver.url, settings) as services:
                    Story(console, services, journals, queues, receiver, journal / "gateway-is-down").tell()
                    services.stop()
            finally:
                # A story that breaks off leaves its spans as well: they say why.
                export = encode(merge(receiver.exports()))
                (out / "traces.otlp.json").write_text(json.dumps(export, indent=1), encoding="utf-8")
        parked = list(queues.take_parked())
    charts = draw(export)
    console.print()
    picture.show(console, charts, console.width)
    picture.save(out / "traces.svg", TITLE, charts)
    return report(console, out, export, balance(journals, parked), forward)


def draw(export: Json) -> list[Chart]:
    """Return the charts of the run: one for each chapter."""
    traces = {request_id(spans): spans for spans in by_trace(read(export)).values()}
    titles = {
        ORDINARY: "1  an ordinary order",
        RETRIED: "2  a payment that fails twice and is retried by the broker",
        LATE: "3  a deadline that is too short: parked, never charged",
    }
    charts = [chart(title, traces[order]) for order, title in titles.items() if order in traces]
    during = [traces[order] for order in OUTAGE if order in traces]
    return [
        *charts,
        overview("4  a gateway outage: the breaker pauses payments, probes, recovers", "payments", during),
    ]


def report(console: Console, out: Path, export: Json, books: Books, forward: Relay | None) -> int:
    """Print the summary, its last line the sum; return 0 if everything is as it must be."""
    spans = read(export)
    lost = orphans(spans)
    console.print("\n[bold]summary[/]")
    rows = [
        (
            "traces",
            f"{len(by_trace(spans))}, with {len(spans)} spans, {len(lost)} of them without their parent",
        ),
        ("duplicates", f"{books.duplicates}"),
        (
            "files",
            f"{_shown(out / 'traces.svg')}, {_shown(out / 'traces.otlp.json')}, {_shown(out / 'logs')}/",
        ),
    ]
    if forward is None:
        rows += [
            ("Jaeger", "docker compose -f docs/demo/compose.yaml up -d, then"),
            ("", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 nox -s demo"),
            ("", "and look at http://127.0.0.1:16686"),
        ]
    else:
        rows.append(("sent to", forward.failure or f"{forward.url}, {forward.sent} exports"))
    for name, value in rows:
        console.print(f"  {name:12}{value}", soft_wrap=True, markup=False)
    problems = []
    if books.lost:
        problems.append("the sum does not hold")
    if LATE in books.charged:
        problems.append(f"{LATE} was charged after its deadline")
    for problem in problems:
        console.print(f"  [bold red]{problem}[/]")
    console.print(f"\n{books}", style="bold red" if problems else "bold green")
    return 1 if problems else 0


def _console() -> Console:
    """Return a console as wide as the pictures need: a pipe has no width, and a narrow terminal wraps."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Lines and arrows on a terminal that cannot show them shall not end the demo.
        sys.stdout.reconfigure(errors="replace")
    usual = Console()
    width = min(max(usual.width, picture.NARROWEST), picture.WIDEST) if usual.is_terminal else picture.USUAL
    return Console(width=width, highlight=False)


def _shown(path: Path) -> str:
    """Return *path* as the user would type it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """Turn a signal into an exception, so that everything that was started is ended."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
