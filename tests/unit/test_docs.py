"""What the documents state as a list is what the code does."""

import re
import runpy
from dataclasses import fields
from inspect import Parameter, signature
from pathlib import Path
from typing import get_args

import pytest
from opentelemetry.metrics import NoOpMeter

from crash.bounds import BOUNDS
from otel_waybill import names
from otel_waybill.core import belief, copies, headers, topology, waybill
from otel_waybill.core.backoff import Backoff
from otel_waybill.core.breaker import DEFAULT_WINDOW, Trigger
from otel_waybill.core.delivery import Reason
from otel_waybill.core.events import CallOutcome
from otel_waybill.core.limits import ConcurrencyLimit, RateLimit
from otel_waybill.core.retry import Retry, RetryBudget
from otel_waybill.core.spec import BreakerSpec, OnExpired, PolicySpec
from otel_waybill.core.topology import RUNGS
from otel_waybill.policy import Policy
from otel_waybill.telemetry.meters import Meters

DOCS = Path(__file__).parents[2] / "docs"
WIRE_FORMAT = (DOCS / "wire-format.md").read_text()
BREAKERS = (DOCS / "breakers.md").read_text()
POLICIES = (DOCS / "policies.md").read_text()
TELEMETRY = (DOCS / "telemetry.md").read_text()


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
    elsewhere = ("HEADER_", "BAGGAGE_", "RETURN_", "PARKING_", "UNROUTED", "DELAY_PREFIX", "PARKED_")
    apart = {names.DISTRIBUTION, names.VERSION, names.SCHEMA_URL, names.CAPTURED_HEADER_PREFIX}
    emitted = {
        value
        for name, value in vars(names).items()
        if name.isupper() and isinstance(value, str) and not name.startswith(elsewhere)
    }

    assert set() == {value for value in emitted - apart if f"`{value}`" not in TELEMETRY}


@pytest.mark.parametrize(
    "stated",
    [
        f"at most {headers._LONGEST_NUMBER} digits",
        f"UTF-8 of at most {headers.LONGEST_TEXT} octets",
        f"1 to {waybill.LONGEST_REQUEST_ID} printable ASCII characters",
        f"at most {copies.LARGEST_FACTS} octets",
        f"the text cut to {copies.LONGEST_EXCEPTION_MESSAGE} characters",
        f"a maximum of its own ({PolicySpec().max_deadline / 3600:g} h here)",
        f"({PolicySpec().skew_tolerance:g} s here)",
        f"ahead by more than {belief.LARGEST_SKEW:g} s",
        f"are at most {waybill.LARGEST_COUNT}.",
    ],
)
def test_the_wire_format_states_the_limits(stated: str) -> None:
    """A program in another language that keeps to the document is understood."""
    assert stated in " ".join(WIRE_FORMAT.split())


def test_the_wire_format_makes_up_no_header_and_no_baggage_member() -> None:
    """What the document names is what the code reads and writes."""
    spelled = set(re.findall(r"\bwaybill[-.][a-z0-9.-]*[a-z0-9]\b", WIRE_FORMAT))
    known = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    rungs = {topology.delay_name(milliseconds) for milliseconds in RUNGS}

    assert set() == spelled - known - rungs - {"waybill.delay.v1", "waybill.anonymous"}


def test_the_telemetry_reference_tells_what_each_metric_is() -> None:
    """Whoever builds a dashboard finds each metric with its instrument, and seconds where it is a time."""
    made: dict[str, str] = {}

    class Noting(NoOpMeter):
        """Notes which instruments are made."""

        def __getattribute__(self, method: str) -> object:
            if not method.startswith("create_"):
                return super().__getattribute__(method)
            kind = method.removeprefix("create_").replace("up_down", "up-down").replace("_", " ")

            def create(name: str, unit: str, *_: object, **__: object) -> None:
                made[name] = f"{kind}, s" if unit == "s" else kind

            return create

    Meters(Noting("test"))

    row = r"^\| `([a-z._]+)` \| ((?:histogram|counter|up-down|gauge)[^|]*) \|"
    documented = re.findall(row, TELEMETRY, re.MULTILINE)
    assert made == dict(documented)


def test_the_diagram_of_states_is_the_table() -> None:
    """What the picture of a breaker shows is what it does: `python docs/state_diagram.py` draws it again."""
    drawn = re.search(r"```mermaid\n(.*?)\n```", BREAKERS, re.DOTALL)

    assert drawn is not None
    assert runpy.run_path(str(DOCS / "state_diagram.py"))["mermaid"]() == drawn[1]


def test_every_trigger_of_a_breaker_is_explained() -> None:
    """Whoever reads why a breaker changed finds what that means."""
    assert set(Trigger) == set(re.findall(r"^\| `([a-z]+)` \| .* \|$", _section("States"), re.MULTILINE))


def test_every_outcome_of_a_call_is_explained() -> None:
    """Whoever builds a dashboard of calls finds what each outcome is, on both pages."""
    assert set() == {
        each
        for page in (_section("What counts"), TELEMETRY)
        for each in CallOutcome
        if f"`{each}`" not in page
    }


def test_the_settings_of_a_breaker_are_listed_with_their_defaults() -> None:
    """What the page says is what a breaker does when nothing is said."""
    in_words = {Exception: "every `Exception`", (): "none"}
    defaults = {
        each.name: in_words.get(each.default, f"`{each.default}`")
        for each in fields(BreakerSpec)
        if each.name != "name"
    }

    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", _section("Settings"), re.MULTILINE)
    assert list(defaults.items()) == rows
    assert f"; {DEFAULT_WINDOW:g} unless `window_calls` is given" in BREAKERS


@pytest.mark.parametrize("settings", [Policy, Retry, Backoff, RetryBudget, RateLimit, ConcurrencyLimit])
def test_the_settings_of_a_policy_are_listed_with_their_defaults(settings: type) -> None:
    """What the page says is what a policy does when nothing is said, each setting in its order."""
    section = re.search(rf"^### {settings.__name__}\n(.*?)(?=^##|\Z)", POLICIES, re.DOTALL | re.MULTILINE)
    assert section is not None
    listed = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section[1], re.MULTILINE)
    assert [(name, _default(each)) for name, each in signature(settings).parameters.items()] == listed


def test_what_becomes_of_expired_messages_is_listed() -> None:
    """Each choice is explained."""
    assert set() == {choice for choice in get_args(OnExpired) if f'| `"{choice}"` |' not in POLICIES}


def test_reasons_for_parking_are_named_where_their_rules_are() -> None:
    """Whoever finds a parked message finds the rule that parked it."""
    assert set() == {f"`{reason}`" for reason in Reason if f"`{reason}`" not in POLICIES}


def _default(parameter: Parameter) -> str:
    if parameter.default is Parameter.empty:
        return "required"
    if parameter.name == "backoff":  # made anew for each policy
        assert Retry().backoff == Backoff()
        return "`Backoff()`"
    default = parameter.default
    return f"`{default.__name__ if isinstance(default, type) else repr(default)}`"


def test_the_guarantees_state_the_bounds_that_the_crash_matrix_keeps() -> None:
    """How often a message may end twice is what is tried out, row by row."""
    guarantees = (DOCS / "guarantees.md").read_text()
    rows = re.findall(r"^\| (.+?) \|.*\| (.+?) \|$", guarantees, re.MULTILINE)
    first = next(n for n, (_, last) in enumerate(rows) if last.startswith("ends twice")) + 1

    assert [(row.value, bound.value) for row, bound in BOUNDS.items()] == rows[first : first + len(BOUNDS)]


def _section(title: str) -> str:
    return BREAKERS.partition(f"## {title}\n")[2].partition("\n## ")[0]
