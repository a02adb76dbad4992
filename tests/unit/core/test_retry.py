"""Policies and their retry rules as values: which of them are refused."""

import math
from dataclasses import asdict
from typing import Any

import pytest

from otel_waybill.core.limits import ConcurrencyLimit, RateLimit
from otel_waybill.core.retry import Retry, RetryBudget
from otel_waybill.core.spec import PolicySpec
from unit.core.objections import objection

IN_ORDER = Retry(in_order=True)
PREFETCH = "1 <= prefetch <= 65535 (0 is unlimited, and holding must be bounded), or None"


@pytest.mark.parametrize(
    ("expected", "wrong"),
    [
        ("attempts >= 1, got 0", {"attempts": 0}),
        ("redeliveries >= 1, got 0", {"redeliveries": 0}),
        ("max_deferrals >= 0, got -1", {"max_deferrals": -1}),
        ("0 < elapsed < inf (seconds), or None, got 0.0", {"elapsed": 0.0}),
        ("0 < elapsed < inf (seconds), or None, got inf", {"elapsed": math.inf}),
        ("0 < elapsed < inf (seconds), or None, got nan", {"elapsed": math.nan}),
        ("a Backoff, got 5.0", {"backoff": 5.0}),
        ("a RetryBudget as budget, or None, got 10.0", {"budget": 10.0}),
        (
            "no classic_guard beside in_order, under which no message leaves its place, got (True, True)",
            {"classic_guard": True, "in_order": True},
        ),
    ],
)
def test_retry_out_of_range_is_refused(expected: str, wrong: dict[str, Any]) -> None:
    """A number that makes no sense, or two settings that exclude each other."""
    assert f"need {expected}" == objection(lambda: Retry(**wrong))


@pytest.mark.parametrize(
    "edge",
    [{"attempts": 1}, {"redeliveries": 1}, {"max_deferrals": 0}, {"elapsed": 0.5}, {"classic_guard": True}],
)
def test_retry_at_the_edge_of_its_range_is_allowed(edge: dict[str, Any]) -> None:
    """The smallest values that make sense, and each of two settings that exclude each other alone."""
    assert edge.items() <= asdict(Retry(**edge)).items()


@pytest.mark.parametrize(
    ("expected", "wrong"),
    [
        ("0 <= ratio <= 1, got -0.1", {"ratio": -0.1}),
        ("0 <= ratio <= 1, got 1.1", {"ratio": 1.1}),
        ("0 <= ratio <= 1, got nan", {"ratio": math.nan}),
        ("0 < per_second < inf, got 0.0", {"per_second": 0.0}),
        ("0 < per_second < inf, got inf", {"per_second": math.inf}),
    ],
)
def test_budget_out_of_range_is_refused(expected: str, wrong: dict[str, float]) -> None:
    """A budget without a floor would stop for ever once it is empty."""
    assert f"need {expected}" == objection(lambda: RetryBudget(**wrong))


@pytest.mark.parametrize("edge", [{"ratio": 0.0}, {"ratio": 1.0}, {"per_second": 0.1}])
def test_budget_at_the_edge_of_its_range_is_allowed(edge: dict[str, float]) -> None:
    """Only so many per second, one retry for each message, and one every ten seconds."""
    assert edge.items() <= asdict(RetryBudget(**edge)).items()


@pytest.mark.parametrize(
    ("expected", "wrong"),
    [
        (f"{PREFETCH}, got 0", {"prefetch": 0}),
        (f"{PREFETCH}, got 65536", {"prefetch": 65_536}),
        ("workers >= 0, got -1", {"workers": -1}),
        ("0 < confirm_timeout < inf (seconds), got 0.0", {"confirm_timeout": 0.0}),
        ("0 < hold_max < inf (seconds), got inf", {"hold_max": math.inf}),
        ("0 < max_deadline < inf (seconds), got -1.0", {"max_deadline": -1.0}),
        ("0 <= skew_tolerance < inf (seconds), got nan", {"skew_tolerance": math.nan}),
        ("0 <= skew_tolerance < inf (seconds), got inf", {"skew_tolerance": math.inf}),
        ("settle in 'return', 'handler', got 'never'", {"settle": "never"}),
        ("on_expired in 'park', 'run', 'ack', 'fallback', got 'drop'", {"on_expired": "drop"}),
        ("deadline in 'inherit', 'ignore', got 'inherits'", {"deadline": "inherits"}),
        ("topology in 'declare', 'passive', 'none', got 'active'", {"topology": "active"}),
        ("a name of 1 to 237 bytes for the parking queue, got ''", {"parking": ""}),
        ("a fallback for on_expired='fallback', got False", {"on_expired": "fallback"}),
        (
            f"no concurrency beside in_order, which runs one message at a time, got {ConcurrencyLimit(2)}",
            {"concurrency": ConcurrencyLimit(2), "retry": IN_ORDER},
        ),
    ],
)
def test_policy_out_of_range_is_refused(expected: str, wrong: dict[str, Any]) -> None:
    """Bad settings are found when the policy is written."""
    assert f"need {expected}" == objection(lambda: PolicySpec(**wrong))


@pytest.mark.parametrize(
    "edge",
    [
        {"prefetch": 1},
        {"prefetch": 65_535},
        {"workers": 0},
        {"confirm_timeout": 0.5},
        {"hold_max": 0.5},
        {"max_deadline": 0.5},
        {"skew_tolerance": 0.0},
        {"parking": "q"},
        {"parking": "q" * 237},
        {"on_expired": "fallback", "fallback": True},
    ],
)
def test_policy_at_the_edge_of_its_range_is_allowed(edge: dict[str, Any]) -> None:
    """The smallest values that make sense, and what a substitute is needed for with one."""
    spec = PolicySpec(**edge)
    assert edge == {name: getattr(spec, name) for name in edge}


def test_prefetch_follows_what_runs_at_a_time() -> None:
    """Enough to keep every handler busy; little where one that fails holds up all behind it."""
    assert 20 == PolicySpec().prefetch_count
    assert 20 == PolicySpec(concurrency=ConcurrencyLimit(3)).prefetch_count
    assert 80 == PolicySpec(concurrency=ConcurrencyLimit(40)).prefetch_count
    assert 65_535 == PolicySpec(concurrency=ConcurrencyLimit(40_000)).prefetch_count, "AMQP knows no more"
    assert 2 == PolicySpec(retry=IN_ORDER).prefetch_count
    assert 7 == PolicySpec(prefetch=7, rate=RateLimit(1), retry=IN_ORDER).prefetch_count
