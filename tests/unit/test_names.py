"""Our vocabulary against the installed semantic conventions, so that drift is a red test."""

import pytest
from opentelemetry.semconv._incubating.attributes import (
    error_attributes,
    messaging_attributes,
    network_attributes,
    server_attributes,
)
from opentelemetry.semconv._incubating.metrics import messaging_metrics

from otel_waybill import names

THEIRS = {
    name: value
    for module in (messaging_attributes, server_attributes, network_attributes, error_attributes)
    for name, value in vars(module).items()
    if isinstance(value, str) and name.isupper()
}

# Where our shorter name stands for their longer one.
SHORTER = {
    "MESSAGING_CONVERSATION_ID": "MESSAGING_MESSAGE_CONVERSATION_ID",
    "MESSAGING_ROUTING_KEY": "MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY",
    "MESSAGING_DELIVERY_TAG": "MESSAGING_RABBITMQ_MESSAGE_DELIVERY_TAG",
    "MESSAGING_BATCH_COUNT": "MESSAGING_BATCH_MESSAGE_COUNT",
}

OURS = {name: value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
BORROWED = sorted(name for name in OURS if name.startswith(("MESSAGING_", "SERVER_", "NETWORK_", "ERROR_")))


@pytest.mark.parametrize("name", BORROWED)
def test_borrowed_names_are_those_of_the_conventions(name: str) -> None:
    """A name that looks like OpenTelemetry's is OpenTelemetry's."""
    assert THEIRS[SHORTER.get(name, name)] == OURS[name]


def test_borrowed_metrics_are_those_of_the_conventions() -> None:
    """The four metrics of messaging are called what dashboards look for; all others are ours, and say so."""
    metrics = {value for name, value in OURS.items() if name.startswith("METRIC_")}
    borrowed = {value for value in metrics if not value.startswith("waybill.")}
    assert {
        messaging_metrics.MESSAGING_CLIENT_OPERATION_DURATION,
        messaging_metrics.MESSAGING_PROCESS_DURATION,
        messaging_metrics.MESSAGING_CLIENT_SENT_MESSAGES,
        messaging_metrics.MESSAGING_CLIENT_CONSUMED_MESSAGES,
    } == borrowed


def test_names_of_our_own_say_whose_they_are() -> None:
    """Baggage, headers and attributes begin with the name of the package, variables with OTEL_WAYBILL."""
    theirs = {"OTEL_SEMCONV_STABILITY_OPT_IN", "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"}
    of_others = (
        "HEADER_",
        "LEGACY_",
        "METRIC_",
        "CAPTURED_",
        "PARKED_",
        "DISTRIBUTION",
        "VERSION",
        "SCHEMA_URL",
    )
    for name, value in OURS.items():
        if name.startswith("ENV_"):
            assert value.startswith("OTEL_WAYBILL_") or value in theirs, name
        elif name not in BORROWED and not name.startswith(of_others):
            assert value.startswith("waybill."), name
    foreign = {"HEADER_TRACEPARENT", "HEADER_TRACESTATE", "HEADER_BAGGAGE", "HEADER_DELIVERY_COUNT"}
    for name in {name for name in OURS if name.startswith("HEADER_")} - foreign:
        assert OURS[name].startswith(names.HEADER_PREFIX), name


def test_no_two_names_collide() -> None:
    """Each string stands for one fact; a metric may be called what an attribute is."""
    metrics = [value for name, value in OURS.items() if name.startswith("METRIC_")]
    others = [value for name, value in OURS.items() if not name.startswith("METRIC_")]
    assert len(metrics) == len(set(metrics))
    assert len(others) == len(set(others))
