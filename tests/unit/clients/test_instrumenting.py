"""Switching a client on and off: where signals go, which hooks hold, and what is said about versions."""

import logging
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span

from otel_waybill import names
from otel_waybill.clients.shared import instrumenting
from otel_waybill.clients.shared.instrumenting import LOGS_EXCEPTIONS, Options, switch_off, switch_on
from otel_waybill.clients.shared.live import Live
from otel_waybill.clients.shared.policies import Consumer
from otel_waybill.config.settings import Exceptions, Settings
from otel_waybill.core.spec import PolicySpec
from otel_waybill.errors import InvalidPolicy, InvalidPolicyFile
from otel_waybill.patching import PatchSet
from otel_waybill.resilience.guarded import Terms
from otel_waybill.telemetry.hooks import Hooks, Message
from otel_waybill.telemetry.recorder import SILENT
from otel_waybill.telemetry.semconv import ACK, PROCESS, PUBLISH
from unit.log_records import InMemoryLogRecordExporter, with_exceptions

ORDER = Message("shop", "order.new")


class Client:
    """Something that can be patched."""

    def publish(self) -> str:
        """Do what clients do."""
        return "published"


class Bench:
    """A client that can be switched on and off, and where its signals go."""

    def __init__(self) -> None:
        self.live = Live()
        self.patches = PatchSet()
        self.patches.add(Client, "publish", lambda wrapped, *_: f"traced {wrapped()}")
        self.spans = InMemorySpanExporter()
        self.logs = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # the SDK left it out
        self.metrics = InMemoryMetricReader()
        self.tracers, self.loggers = TracerProvider(), LoggerProvider()
        self.meters = MeterProvider([self.metrics])
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.loggers.add_log_record_processor(SimpleLogRecordProcessor(self.logs))

    def on(self, requirement: str = "pika >= 1", **more: object) -> None:
        """Switch it on with providers of its own."""
        options = Options(
            tracer_provider=self.tracers,
            meter_provider=self.meters,
            logger_provider=self.loggers,
            **more,  # type: ignore[typeddict-item]  # tests say which
        )
        switch_on(self.live, self.patches, requirement, options)

    def off(self) -> None:
        """Switch it off."""
        switch_off(self.live, self.patches)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A client, which is off in the end."""
    bench = Bench()
    yield bench
    bench.off()


def test_methods_are_patched_and_put_back(bench: Bench) -> None:
    """On is on, and off is as it was: the identical function, and silence."""
    before = Client.__dict__["publish"]
    bench.on()
    assert "traced published" == Client().publish()
    assert not bench.live.recorder().silent
    bench.off()
    assert before is Client.__dict__["publish"]
    assert SILENT is bench.live.recorder()


def test_signals_go_where_they_were_sent(bench: Bench) -> None:
    """Spans, metrics and logs reach the providers that were given, as ours and with their schema."""
    bench.on(settings=Settings(exceptions="logs"))
    bench.live.recorder().start(PUBLISH, ORDER, None, Context()).finish(ValueError())
    [span] = bench.spans.get_finished_spans()
    data = bench.metrics.get_metrics_data()
    assert data is not None
    scopes = [
        span.instrumentation_scope,
        data.resource_metrics[0].scope_metrics[0].scope,
        *(log.instrumentation_scope for log in bench.logs.get_finished_logs()),
    ]
    ours = ("otel-waybill", names.VERSION, "https://opentelemetry.io/schemas/1.44.0")
    assert [ours] * (3 if LOGS_EXCEPTIONS else 2) == [
        (scope.name, scope.version, scope.schema_url) for scope in scopes if scope is not None
    ]


@with_exceptions
@pytest.mark.parametrize(("expected", "chosen"), [(0, "events"), (1, "logs"), (1, "logs/dup")])
def test_logs_are_for_those_who_chose_them(bench: Bench, expected: int, chosen: Exceptions) -> None:
    """By default there is none."""
    bench.on(settings=Settings(exceptions=chosen))
    bench.live.recorder().start(PUBLISH, ORDER, None, Context()).finish(ValueError())
    assert expected == len(bench.logs.get_finished_logs())


def test_exceptions_stay_on_their_spans_where_they_cannot_be_logged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No exception that was meant for the log is lost: a warning says where it is instead."""
    monkeypatch.setattr(instrumenting, "LOGS_EXCEPTIONS", False)
    bench.on(settings=Settings(exceptions="logs"))
    bench.live.recorder().start(PUBLISH, ORDER, None, Context()).finish(ValueError())
    [span] = bench.spans.get_finished_spans()
    assert ["exception"] == [event.name for event in span.events]
    assert () == bench.logs.get_finished_logs()
    expected = (
        "otel-waybill keeps exceptions as span events: logging them needs opentelemetry-api 1.42, "
        f"this is {version('opentelemetry-api')}"
    )
    assert [expected] == [record.getMessage() for record in caplog.records]


def test_metrics_can_be_switched_off(bench: Bench) -> None:
    """A program that measures by other means has none of ours."""
    bench.on(settings=Settings(metrics=False))
    bench.live.recorder().start(PUBLISH, ORDER, None, Context()).finish()
    assert bench.metrics.get_metrics_data() is None


def test_two_clients_share_the_instruments_of_a_provider(bench: Bench) -> None:
    """Nobody gets a warning that an instrument exists already, and nothing is counted twice."""
    other = Bench()
    other.meters = bench.meters
    bench.on()
    other.on()
    assert bench.live.recorder().meters is other.live.recorder().meters
    other.off()


def test_settings_come_from_the_environment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the launcher there is nothing else; a typing mistake in it is an error and patches nothing."""
    monkeypatch.setenv("OTEL_WAYBILL_PARENT", "link")
    bench.on()
    assert Settings(parent="link") == bench.live.recorder().settings
    bench.off()
    monkeypatch.setenv("OTEL_WAYBILL_PARENT", "nobody")
    with pytest.raises(InvalidPolicy, match="OTEL_WAYBILL_PARENT"):
        bench.on()
    assert "published" == Client().publish()


def test_policies_are_applied_by_name(bench: Bench) -> None:
    """What was given by name holds for consumers of that name."""
    bench.on(terms={"orders": Terms.of(PolicySpec())})
    assert bench.live.policies.bind(print, Consumer(queue="orders")).terms is not None


def test_policies_of_a_file_apply_where_none_are_given(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The environment names the file; what the program gives wins."""
    (tmp_path / "policies.toml").write_text("[policies.orders]")
    monkeypatch.setenv("OTEL_WAYBILL_POLICIES", str(tmp_path / "policies.toml"))
    bench.on()
    assert bench.live.policies.bind(print, Consumer(queue="orders")).terms is not None
    bench.off()
    bench.on(terms={})
    assert bench.live.policies.bind(print, Consumer(queue="orders")).terms is None


def test_policies_that_cannot_be_read_let_nobody_consume(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The program is traced, told once, and refused when it begins to consume, with a new error each time."""
    monkeypatch.setenv("OTEL_WAYBILL_POLICIES", str(tmp_path / "absent.toml"))
    bench.on()
    bench.off()
    bench.on()
    assert 1 == caplog.text.count("no policies, so nothing can be consumed")
    assert not bench.live.recorder().silent
    errors = []
    for _ in range(2):
        with pytest.raises(InvalidPolicyFile, match="No such file") as caught:
            bench.live.policies.bind(print, Consumer(queue="orders"))
        errors.append(caught.value)
    assert errors[0] is not errors[1]


def named(called: list[str], name: str) -> object:
    """A hook that writes its name down."""

    def hook(span: Span, message: Message) -> None:
        del span, message
        called.append(name)

    return hook


def test_hooks_of_either_kind_hold(bench: Bench) -> None:
    """One by itself, as OpenTelemetry's own take it, replaces its kind and adds to the others."""
    called: list[str] = []
    hooks = Hooks(
        publish=named(called, "publish"),  # type: ignore[arg-type]  # a hook
        consume=named(called, "consume"),  # type: ignore[arg-type]  # a hook
        destination_template=lambda name: f"any {name}",
        redact=lambda _name, _value: "seen",
    )
    bench.on(
        hooks=hooks,
        publish_hook=named(called, "mine"),
        settle_hook=named(called, "settle"),
        settings=Settings(capture_headers=("tenant",)),
    )

    class Properties:
        headers = {"tenant": "acme"}  # noqa: RUF012 - as clients have it

    for operation in (PUBLISH, PROCESS, ACK):
        message = ORDER._replace(properties=Properties)
        bench.live.recorder().start(operation, message, None, Context()).finish()
    assert ["mine", "consume", "settle"] == called
    [first, *_] = bench.spans.get_finished_spans()
    assert "publish any shop:order.new" == first.name
    assert ("seen",) == (first.attributes or {})["messaging.header.tenant"]


def test_untested_version_is_said_once_and_tried(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A client outside of the range is traced all the same, and the line names both."""
    with caplog.at_level(logging.WARNING, "otel_waybill"):
        bench.on("pika < 1")
        assert "traced published" == Client().publish()
    assert [f"otel-waybill is proven on pika < 1, this is pika {version('pika')}"] == caplog.messages


def test_proven_version_is_not_worth_a_word(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is told what is as it should be."""
    with caplog.at_level(logging.WARNING):
        bench.on("pika >= 1")
    assert [] == caplog.messages
