"""Retry rules as values: what they match, and which of them are refused."""

import math
from typing import Any

import pytest

from otel_waybill.core.limits import ConcurrencyLimit, RateLimit
from otel_waybill.core.match import check_match, matches
from otel_waybill.core.retry import Retry, RetryBudget
from otel_waybill.core.spec import PolicySpec
from otel_waybill.errors import InvalidPolicy

IN_ORDER = Retry(in_order=True)


class Declined(Exception):  # noqa: N818 - what a payment is
    """A failure with a code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def test_class_classes_and_function_match() -> None:
    """A rule is about a class with its subclasses, about several, or about whatever a function says."""
    error = Declined(5)
    assert matches(Declined, error)
    assert matches(Exception, error)
    assert matches((ValueError, Declined), error)
    assert matches(lambda raised: isinstance(raised, Declined) and raised.code == 5, error)
    assert not matches(ValueError, error)
    assert not matches((), error)
    assert not matches(lambda _: False, error)


@pytest.mark.parametrize("match", [5, "ValueError", None, int, (ValueError, 5), (ValueError, int)])
def test_rule_that_can_match_nothing_is_refused(match: object) -> None:
    """What is neither exception nor function is an error when the policy is written, by its name."""
    wrong: Any = match
    with pytest.raises(InvalidPolicy, match="park: an exception class, a tuple of them, or a function"):
        Retry(park=wrong)


@pytest.mark.parametrize("match", [ValueError, KeyboardInterrupt, (), lambda _: True])
def test_rule_that_can_match_is_allowed(match: object) -> None:
    """Classes, tuples of them, the empty one included, and functions."""
    check_match("on", match)


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ("attempts >= 1", {"attempts": 0}),
        ("redeliveries >= 1", {"redeliveries": 0}),
        ("max_deferrals >= 0", {"max_deferrals": -1}),
        ("0 < elapsed < inf", {"elapsed": 0.0}),
        ("0 < elapsed < inf", {"elapsed": math.inf}),
        ("0 < elapsed < inf", {"elapsed": math.nan}),
        ("no classic_guard beside in_order", {"classic_guard": True, "in_order": True}),
    ],
)
def test_retry_out_of_range_is_refused(rule: str, wrong: dict[str, Any]) -> None:
    """A number that makes no sense, or two settings that exclude each other."""
    with pytest.raises(InvalidPolicy, match=rule):
        Retry(**wrong)


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ("0 <= ratio <= 1", {"ratio": -0.1}),
        ("0 <= ratio <= 1", {"ratio": 1.1}),
        ("0 <= ratio <= 1", {"ratio": math.nan}),
        ("0 < per_second < inf", {"per_second": 0.0}),
        ("0 < per_second < inf", {"per_second": math.inf}),
    ],
)
def test_budget_out_of_range_is_refused(rule: str, wrong: dict[str, float]) -> None:
    """A budget without a floor would stop for ever once it is empty."""
    with pytest.raises(InvalidPolicy, match=rule):
        RetryBudget(**wrong)


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ("prefetch >= 1", {"prefetch": 0}),
        ("0 < confirm_timeout < inf", {"confirm_timeout": 0.0}),
        ("0 < hold_max < inf", {"hold_max": math.inf}),
        ("0 < max_deadline < inf", {"max_deadline": -1.0}),
        ("0 <= skew_tolerance < inf", {"skew_tolerance": math.nan}),
        ("settle", {"settle": "never"}),
        ("on_expired", {"on_expired": "drop"}),
        ("a fallback for on_expired='fallback'", {"on_expired": "fallback"}),
        (
            "no concurrency beside in_order",
            {"concurrency": ConcurrencyLimit(2), "retry": IN_ORDER},
        ),
    ],
)
def test_policy_out_of_range_is_refused(rule: str, wrong: dict[str, Any]) -> None:
    """Bad settings are found when the policy is written."""
    with pytest.raises(InvalidPolicy, match=rule):
        PolicySpec(**wrong)


def test_prefetch_follows_what_runs_at_a_time() -> None:
    """Enough to keep every handler busy; little where one that fails holds up all behind it."""
    assert 20 == PolicySpec().prefetch_count
    assert 20 == PolicySpec(concurrency=ConcurrencyLimit(3)).prefetch_count
    assert 80 == PolicySpec(concurrency=ConcurrencyLimit(40)).prefetch_count
    assert 2 == PolicySpec(retry=IN_ORDER).prefetch_count
    assert 7 == PolicySpec(prefetch=7, rate=RateLimit(1), retry=IN_ORDER).prefetch_count
