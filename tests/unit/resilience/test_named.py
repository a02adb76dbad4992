"""Policies of a file, brought to life."""

from collections.abc import Callable
from pathlib import Path

import pytest

from otel_waybill.errors import InvalidPolicy
from otel_waybill.resilience.breaker import CircuitBreaker
from otel_waybill.resilience.named import terms_in

Written = Callable[[str], str]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Write a file and return its path."""

    def write(text: str) -> str:
        path = tmp_path / "policies.toml"
        path.write_text(text)
        return str(path)

    return write


def test_a_breaker_of_the_file_is_one_object(written: Written) -> None:
    """Policies that name the same breaker pause together; one without is never paused."""
    path = written("""
        [breakers.payments-in-file]
        open_for = 7
        [policies.orders]
        breaker = "payments-in-file"
        [policies.invoices]
        breaker = "payments-in-file"
        [policies.mail]
    """)
    terms = terms_in(path)
    orders = terms["orders"].breaker
    assert orders is not None
    assert "payments-in-file" == orders.name
    assert terms["invoices"].breaker is orders
    assert terms["mail"].breaker is None
    assert terms_in(path) is terms, "both clients have the same ones"


def test_a_breaker_of_the_program_and_one_of_the_file_are_not_the_same(written: Written) -> None:
    """Two that know nothing of each other would each see half of the failures."""
    mine = CircuitBreaker("payments-of-mine")
    with pytest.raises(InvalidPolicy, match="one live breaker of the name 'payments-of-mine'"):
        terms_in(written("[breakers.payments-of-mine]"))
    assert "closed" == mine.state
