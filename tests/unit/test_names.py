"""Our vocabulary against the installed semantic conventions, so that drift is a red test."""

import pytest
from opentelemetry.semconv._incubating.attributes import (
    error_attributes,
    messaging_attributes,
    network_attributes,
    server_attributes,
)

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


def test_names_of_our_own_say_whose_they_are() -> None:
    """Baggage and headers begin with the name of the package, environment variables with OTEL_WAYBILL."""
    for name, value in OURS.items():
        if name.startswith("BAGGAGE_"):
            assert value.startswith("waybill."), name
        if name.startswith("ENV_"):
            assert value.startswith("OTEL_WAYBILL_"), name
    foreign = {"HEADER_TRACEPARENT", "HEADER_TRACESTATE", "HEADER_BAGGAGE", "HEADER_DELIVERY_COUNT"}
    for name in {name for name in OURS if name.startswith("HEADER_")} - foreign:
        assert OURS[name].startswith(names.HEADER_PREFIX), name


def test_no_two_names_collide() -> None:
    """Each string stands for one fact."""
    assert len(OURS) == len(set(OURS.values()))
