"""What the documents state as a list is what the code does."""

import re
from pathlib import Path

from otel_waybill import names
from otel_waybill.core.delivery import Reason
from otel_waybill.core.topology import RUNGS

DOCS = Path(__file__).parents[2] / "docs"
WIRE_FORMAT = (DOCS / "wire-format.md").read_text()


def test_the_wire_format_lists_the_rungs() -> None:
    """A program in another language that takes the rungs from the document uses the same queues."""
    listed = re.search(r"next rung:\n\n`([\d,\s]+)`", WIRE_FORMAT)

    assert listed is not None
    assert list(RUNGS) == [int(ms) for ms in listed[1].split(",")]


def test_the_wire_format_names_every_header_baggage_key_and_exchange() -> None:
    """Nothing of ours is on the wire that the document does not tell."""
    kinds = ("HEADER_", "BAGGAGE_", "RETURN_", "PARKING_", "UNROUTED", "DELAY_PREFIX", "PARKED_")
    ours = {value for name, value in vars(names).items() if name.startswith(kinds) and isinstance(value, str)}

    missing = {value for value in ours if value not in WIRE_FORMAT}
    assert set() == missing - {names.HEADER_PREFIX}


def test_the_wire_format_lists_the_reasons_for_parking() -> None:
    """Whoever reads a parked message finds its reason explained."""
    assert set() == {f"`{reason}`" for reason in Reason if f"`{reason}`" not in WIRE_FORMAT}


def test_the_telemetry_reference_is_complete() -> None:
    """Whatever spans, metrics and variables a user meets are explained."""
    reference = (DOCS / "telemetry.md").read_text()
    elsewhere = ("HEADER_", "BAGGAGE_", "RETURN_", "PARKING_", "UNROUTED", "DELAY_PREFIX", "PARKED_")
    apart = {names.DISTRIBUTION, names.VERSION, names.SCHEMA_URL, names.CAPTURED_HEADER_PREFIX}
    emitted = {
        value
        for name, value in vars(names).items()
        if name.isupper() and isinstance(value, str) and not name.startswith(elsewhere)
    }

    assert set() == {value for value in emitted - apart if f"`{value}`" not in reference}
