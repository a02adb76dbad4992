"""What a program is told whose value is refused."""

from collections.abc import Callable

import pytest

from otel_waybill.errors import InvalidPolicy


def objection(make: Callable[[], object]) -> str:
    """The whole text with which *make* is refused: the rule, its unit and what was seen."""
    with pytest.raises(InvalidPolicy) as refused:
        make()
    return str(refused.value)
