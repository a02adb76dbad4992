"""Settings from the environment."""

from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_waybill import names
from otel_waybill.config.settings import Settings
from otel_waybill.errors import InvalidPolicy


@pytest.mark.parametrize(
    ("expected", "word"),
    [(True, ""), (True, " TRUE "), (True, "1"), (False, "False"), (False, "0"), (False, "false\n")],
)
@pytest.mark.parametrize(
    ("variable", "field"),
    [("OTEL_WAYBILL_SETTLE_SPANS", "settle_spans"), ("OTEL_WAYBILL_METRICS", "metrics")],
)
def test_switches(variable: str, field: str, word: str, expected: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """True and false have their usual words, and an empty variable is as good as none."""
    switched: dict[str, Any] = {field: expected}
    assert Settings(**switched) == Settings.from_env({variable: word})


@pytest.mark.parametrize(
    ("expected", "environ"),
    [
        ({"parent": "message"}, {"OTEL_WAYBILL_PARENT": ""}),
        ({"parent": "message"}, {"OTEL_WAYBILL_PARENT": "message"}),
        ({"parent": "ambient"}, {"OTEL_WAYBILL_PARENT": " Ambient "}),
        ({"parent": "link"}, {"OTEL_WAYBILL_PARENT": "LINK"}),
        ({"capture_headers": ()}, {"OTEL_WAYBILL_CAPTURE_HEADERS": " , "}),
        ({"capture_headers": ("tenant", "X-Id")}, {"OTEL_WAYBILL_CAPTURE_HEADERS": "tenant, X-Id,"}),
        ({"legacy_attributes": True}, {"OTEL_SEMCONV_STABILITY_OPT_IN": "messaging/dup"}),
        ({"legacy_attributes": True}, {"OTEL_SEMCONV_STABILITY_OPT_IN": "http, messaging ,messaging/dup"}),
        ({"legacy_attributes": False}, {"OTEL_SEMCONV_STABILITY_OPT_IN": "messaging"}),
        ({"legacy_attributes": False}, {"OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup,database"}),
        ({"exceptions": "events"}, {"OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": ""}),
        ({"exceptions": "logs"}, {"OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs"}),
        ({"exceptions": "logs/dup"}, {"OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs/dup"}),
        ({"exceptions": "logs/dup"}, {"OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs, logs/dup"}),
        ({"exceptions": "events"}, {"OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "somebody else's"}),
        ({}, {"SETTLE_SPANS": "false", "OTEL_WAYBILL": "x"}),
    ],
)
def test_reads_the_environment(environ: dict[str, str], expected: dict[str, Any]) -> None:
    """Each variable sets its own field, spaces and case do not matter, and what is not ours is not read."""
    assert Settings(**expected) == Settings.from_env(environ)


def test_defaults_need_no_environment() -> None:
    """What nobody sets is what an empty environment says."""
    defaults = Settings.from_env({})
    assert Settings() == defaults
    assert (True, True, "message", (), False, "events") == (
        defaults.settle_spans,
        defaults.metrics,
        defaults.parent,
        defaults.capture_headers,
        defaults.legacy_attributes,
        defaults.exceptions,
    )


@pytest.mark.parametrize(
    ("expected", "environ"),
    [
        (
            "need OTEL_WAYBILL_SETTLE_SPANS to be true or false, got 'yes'",
            {"OTEL_WAYBILL_SETTLE_SPANS": "yes"},
        ),
        ("need OTEL_WAYBILL_METRICS to be true or false, got 'off'", {"OTEL_WAYBILL_METRICS": "off"}),
        ("need OTEL_WAYBILL_PARENT.*message.*ambient.*link.*got 'none'", {"OTEL_WAYBILL_PARENT": "none"}),
    ],
)
def test_refuses_what_it_does_not_understand(environ: dict[str, str], expected: str) -> None:
    """A typing mistake is an error that names the variable and what was seen, not a silent default."""
    with pytest.raises(InvalidPolicy, match=expected):
        Settings.from_env(environ)


@pytest.mark.parametrize(
    "wrong", [{"parent": "root"}, {"parent": None}, {"exceptions": "log"}, {"exceptions": ""}]
)
def test_refuses_a_choice_that_there_is_not(wrong: dict[str, Any]) -> None:
    """Settings made in code are checked like those of the environment."""
    (field,) = wrong
    with pytest.raises(InvalidPolicy, match=f"need {field}"):
        Settings(**wrong)


SWITCH = {"", "true", "false", "1", "0"}
WORDS = {
    "OTEL_WAYBILL_SETTLE_SPANS": SWITCH,
    "OTEL_WAYBILL_METRICS": SWITCH,
    "OTEL_WAYBILL_PARENT": {"", "message", "ambient", "link"},
}
VARIABLES = [value for name, value in vars(names).items() if name.startswith("ENV_")]


@given(
    st.dictionaries(
        st.sampled_from(VARIABLES),
        st.text() | st.sampled_from(["TRUE", "0", " link ", "messaging/dup", "logs"]),
    )
)
def test_any_environment_is_understood_or_refused(environ: dict[str, str]) -> None:
    """Whatever stands in the environment, it is settings, or an error that names a variable of ours."""
    ours = ["OTEL_WAYBILL_SETTLE_SPANS", "OTEL_WAYBILL_METRICS", "OTEL_WAYBILL_PARENT"]
    understood = all(environ.get(name, "").strip().lower() in WORDS[name] for name in ours)
    with nullcontext() if understood else pytest.raises(InvalidPolicy, match="need OTEL_WAYBILL_"):
        settings = Settings.from_env(environ)
        assert all(name == name.strip() != "" for name in settings.capture_headers)
