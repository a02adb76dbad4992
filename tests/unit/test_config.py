"""Settings from the environment."""

import pytest

from otel_waybill.config import Settings
from otel_waybill.errors import InvalidPolicy


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, True),
        ({"OTEL_WAYBILL_SETTLE_SPANS": ""}, True),
        ({"OTEL_WAYBILL_SETTLE_SPANS": " TRUE "}, True),
        ({"OTEL_WAYBILL_SETTLE_SPANS": "1"}, True),
        ({"OTEL_WAYBILL_SETTLE_SPANS": "False"}, False),
        ({"OTEL_WAYBILL_SETTLE_SPANS": "0"}, False),
        ({"SETTLE_SPANS": "false"}, True),
    ],
)
def test_reads_the_environment(environ: dict[str, str], expected: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A variable that is absent or empty leaves its default; true and false have their usual words."""
    assert Settings(settle_spans=expected) == Settings.from_env(environ)


def test_defaults_need_no_environment() -> None:
    """What nobody sets is what an empty environment says."""
    assert Settings() == Settings.from_env({})


def test_refuses_what_it_does_not_understand() -> None:
    """A typing mistake is an error that names the variable and what was seen, not a silent default."""
    with pytest.raises(InvalidPolicy, match="need OTEL_WAYBILL_SETTLE_SPANS to be true or false, got 'yes'"):
        Settings.from_env({"OTEL_WAYBILL_SETTLE_SPANS": "yes"})
