"""Tests of what is remembered of the queues that a program declares."""

from types import SimpleNamespace

from otel_waybill.clients.shared.declared import _MOST, Kind, kind_of, note


def test_what_was_declared_is_known_on_that_connection_alone() -> None:
    """Another connection may know another queue by the same name, on another broker."""
    here, there = SimpleNamespace(), SimpleNamespace()
    note(here, "mine", exclusive=True, arguments=None)
    note(here, "log", exclusive=False, arguments={"x-queue-type": "stream"})
    assert Kind(exclusive=True) == kind_of(here, "mine")
    assert Kind(stream=True) == kind_of(here, "log")
    assert Kind() == kind_of(here, "orders") == kind_of(there, "mine")


def test_last_declaration_counts() -> None:
    """A queue that was deleted and declared as another kind is of that kind."""
    connection = SimpleNamespace()
    note(connection, "orders", exclusive=True, arguments=None)
    note(connection, "orders", exclusive=False, arguments={"x-queue-type": "quorum"})
    assert Kind() == kind_of(connection, "orders")


def test_memory_is_bounded() -> None:
    """A program that declares a queue for each of its requests costs no more than so much."""
    connection = SimpleNamespace()
    for number in range(_MOST + 1):
        note(connection, str(number), exclusive=True, arguments=None)
    assert Kind() == kind_of(connection, "0")
    assert Kind(exclusive=True) == kind_of(connection, "1") == kind_of(connection, str(_MOST))
