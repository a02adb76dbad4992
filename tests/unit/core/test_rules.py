"""Values that are refused before they do harm."""

from collections.abc import Callable

import pytest

from otel_waybill.core.backoff import Backoff
from otel_waybill.core.limits import ConcurrencyLimit, RateLimit
from otel_waybill.core.retry import Retry, RetryBudget
from otel_waybill.core.spec import BreakerSpec, PolicySpec
from otel_waybill.errors import InvalidPolicy


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda wrong: Retry(attempts=wrong), "need a whole number as attempts, got "),
        (lambda wrong: Retry(elapsed=wrong), "need a number, or None as elapsed, got "),
        (lambda wrong: RetryBudget(ratio=wrong), "need a number as ratio, got "),
        (lambda wrong: Backoff(first=wrong), "need a number as first, got "),
        (RateLimit, "need a whole number as runs, got "),
        (ConcurrencyLimit, "need a whole number as runs, got "),
        (lambda wrong: PolicySpec(workers=wrong), "need a whole number as workers, got "),
        (lambda wrong: PolicySpec(prefetch=wrong), "need a whole number, or None as prefetch, got "),
        (lambda wrong: BreakerSpec(name="p", probes=wrong), "need a whole number as probes, got "),
    ],
)
@pytest.mark.parametrize("wrong", ["5", True, b"5", [5]])
def test_what_is_no_number_is_told_by_name(
    make: Callable[[object], object], told: str, wrong: object
) -> None:
    """Whoever writes `attempts="5"` reads which setting it is, not which comparison failed."""
    with pytest.raises(InvalidPolicy) as caught:
        make(wrong)
    assert f"{told}{wrong!r}" == str(caught.value)


def test_a_whole_number_is_whole() -> None:
    """Half an attempt is none."""
    with pytest.raises(InvalidPolicy, match=r"need a whole number as attempts, got 2\.5"):
        Retry(attempts=2.5)  # type: ignore[arg-type]  # that is it
    assert 2.0 == Backoff(first=2).first
