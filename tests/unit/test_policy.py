"""Policies as programs write them: what they hand to the core."""

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from otel_waybill import InvalidPolicy, Policy, Retry, instrument


def test_describe_is_asked() -> None:
    """What the program makes of an exception is what is stored."""
    spec = Policy(describe=lambda error: f"a {type(error).__name__}").terms.spec
    assert "a ValueError" == spec.describe(ValueError("secret"))
    assert "secret" == Policy().terms.spec.describe(ValueError("secret"))
    assert None is Policy(describe=lambda _: None).terms.spec.describe(ValueError("secret"))


def test_describe_that_raises_is_logged_once_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A hook at fault lets no text through, and its fault is not hidden."""

    def describe(error: BaseException) -> str:
        raise LookupError(error)

    spec = Policy(describe=describe).terms.spec
    with caplog.at_level(logging.ERROR, "otel_waybill"):
        assert [None, None] == [spec.describe(ValueError("secret")) for _ in range(2)]
    (record,) = caplog.records
    assert "describing an exception for parking failed" in record.getMessage()
    assert "secret" not in record.getMessage()


def test_describe_is_something_to_call() -> None:
    """A template, say, is refused when the policy is made, not when the first message fails."""
    wrong: Any = "{error}"
    with pytest.raises(InvalidPolicy, match="need a callable to describe exceptions, got"):
        Policy(describe=wrong)


WRONG_PARTS: dict[str, Callable[[Any], object]] = {
    "a Retry as retry, or None": lambda wrong: Policy(retry=wrong),
    "a CircuitBreaker as breaker, or None": lambda wrong: Policy(breaker=wrong),
    "a RateLimit as rate, or None": lambda wrong: Policy(rate=wrong),
    "a ConcurrencyLimit as concurrency, or None": lambda wrong: Policy(concurrency=wrong),
    "a Backoff": lambda wrong: Retry(backoff=wrong),
    "a RetryBudget as budget, or None": lambda wrong: Retry(budget=wrong),
    "a Policy for queue 'orders'": lambda wrong: instrument(policies={"orders": wrong}),
}


@pytest.mark.parametrize(("rule", "make"), WRONG_PARTS.items(), ids=WRONG_PARTS)
def test_part_of_another_kind_is_refused_when_the_policy_is_made(
    rule: str, make: Callable[[Any], object]
) -> None:
    """A name where the breaker belongs, say, must not be noticed by the first message."""
    with pytest.raises(InvalidPolicy, match=rf"^need {re.escape(rule)}, got '100'$"):
        make("100")
