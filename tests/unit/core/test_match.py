"""Rules about exceptions: which ones they mean."""

from typing import Any

import pytest

from otel_waybill.core.match import Named, check_match, matches
from otel_waybill.core.retry import Retry
from unit.core.objections import objection


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
    rule = "park: an exception class, a tuple of them, or a function of one exception"
    assert f"need {rule}, got {match!r}" == objection(lambda: Retry(park=wrong))


@pytest.mark.parametrize("match", [ValueError, KeyboardInterrupt, (), lambda _: True])
def test_rule_that_can_match_is_allowed(match: object) -> None:
    """Classes, tuples of them, the empty one included, and functions."""
    check_match("on", match)


class OutOfStock(Declined):
    """A failure of a kind that no rule of ours is written for."""

    class Everywhere(Exception):  # noqa: N818 - as above
        """One whose name has two parts."""


HERE = Declined.__module__


@pytest.mark.parametrize(
    ("meant", "name", "error"),
    [
        (True, "ConnectionError", ConnectionError()),
        (True, "ConnectionError", ConnectionResetError()),
        (False, "ConnectionError", OSError()),
        (True, "KeyboardInterrupt", KeyboardInterrupt()),
        (True, f"{HERE}.Declined", Declined(5)),
        (True, f"{HERE}.Declined", OutOfStock(5)),
        (True, f"{HERE}.OutOfStock.Everywhere", OutOfStock.Everywhere()),
        (False, f"{HERE}.OutOfStock", Declined(5)),
        (False, "shop.errors.Declined", Declined(5)),
        (False, "builtins.ValueError", ValueError()),
    ],
)
def test_classes_may_be_meant_by_name(name: str, error: BaseException, *, meant: bool) -> None:
    """Where nothing can be imported, as in a file, a class and its subclasses are known by their names."""
    assert meant is matches(Named((name,)), error)
    assert meant is matches(Named(("shop.errors.Closed", name)), error)


@pytest.mark.parametrize("name", ["", "OutOfStock", "int", "print", "ValueErr"])
def test_name_that_is_no_exception_of_pythons_is_refused(name: str) -> None:
    """A name without a module can only be one of Python's own: a slip in it is found at once."""
    rule = "the name of one of Python's own exceptions, or module.Name of another"
    assert f"need {rule}, got {name!r}" == objection(lambda: Named(("ValueError", name)))
