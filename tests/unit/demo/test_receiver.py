"""The receiver keeps what it is sent, and passes it on."""

import urllib.request

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from stage.receiver import Receiver, Relay, destination


def export(url: str) -> ExportTraceServiceRequest:
    """Send one span to *url*, as an exporter does."""
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name="publish orders", trace_id=b"a" * 16)
    body, headers = request.SerializeToString(), {"Content-Type": "application/x-protobuf"}
    message = urllib.request.Request(url, body, headers)  # noqa: S310 - a url of our own
    with urllib.request.urlopen(message, timeout=5) as answer:  # noqa: S310
        assert 200 == answer.status
    return request


def test_exports_are_kept_and_relayed() -> None:
    """What one receiver gets, the receiver behind it gets as well."""
    with Receiver() as behind:
        relay = Relay(behind.url, {})
        with Receiver(relay) as receiver:
            sent = export(receiver.url)

        assert [sent] == receiver.exports()
        assert [sent] == behind.exports()
        assert (1, None) == (relay.sent, relay.failure)


def test_a_receiver_that_is_not_there_costs_one_line() -> None:
    """The demo goes on, and says once what did not work."""
    with Receiver() as gone:
        pass
    relay = Relay(gone.url, {})
    with Receiver(relay) as receiver:
        export(receiver.url)
        export(receiver.url)

    assert 2 == len(receiver.exports())
    assert relay.failure is not None
    assert relay.failure.startswith(f"{gone.url} did not take the spans")


def test_the_grpc_port_is_recognised() -> None:
    """Who gives 4317 is told which port it should be."""
    relay = Relay("http://127.0.0.1:4317/v1/traces", {})
    relay.put(b"")
    relay.close()

    assert relay.failure is not None
    assert relay.failure.endswith("use port 4318")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://j:4318"}, "http://j:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://j:4318/"}, "http://j:4318/v1/traces"),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://j/t", "OTEL_EXPORTER_OTLP_ENDPOINT": "x"},
            "http://j/t",
        ),
    ],
)
def test_the_destination_follows_the_usual_variables(environ: dict[str, str], expected: str | None) -> None:
    """The endpoint gets the path of its signal; the signal's own variable is taken as it is."""
    assert expected == destination(environ)
