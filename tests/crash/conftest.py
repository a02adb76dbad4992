"""Brokers to break, and the figures of every scenario in one table at the end."""

from collections.abc import Callable, Iterator

import pytest

from crash.books import Figures
from crash.nodes import Node, nodes

_FIGURES = pytest.StashKey[dict[str, Figures]]()

Note = Callable[[Figures], None]


@pytest.fixture(scope="session")
def broker() -> Iterator[Node]:
    """A broker of our own, whatever else there is: it is going to suffer."""
    with nodes(1) as (single,):
        yield single


@pytest.fixture(scope="session")
def cluster() -> Iterator[list[Node]]:
    """Three nodes of one cluster."""
    with nodes(3) as three:
        yield three


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Takes the figures of a scenario."""
    figures = request.config.stash.setdefault(_FIGURES, {})

    def note(seen: Figures) -> None:
        figures[request.node.name.removeprefix("test_")] = seen

    return note


def pytest_configure(config: pytest.Config) -> None:
    """Keep a place for the figures."""
    config.stash[_FIGURES] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write the table."""
    figures = config.stash[_FIGURES]
    if not figures:
        return
    row = "{:62}{:>10}{:>9}{:>8}{:>9}{:>11}{:>7}{:>10}{:>9}"
    terminalreporter.section("crash matrix")
    columns = ("confirmed", "handled", "parked", "crashes", "duplicates", "bound", "repeated", "seconds")
    terminalreporter.write_line(row.format("", *columns))
    for name, each in figures.items():
        terminalreporter.write_line(row.format(name, *_numbers(each)))
    totals = [sum(column) for column in zip(*map(_numbers, figures.values()), strict=True)]
    terminalreporter.write_line(row.format("in all", *totals))


def _numbers(each: Figures) -> tuple[int, ...]:
    return (
        each.confirmed,
        each.handled,
        each.parked,
        each.crashes,
        each.duplicates,
        each.bound,
        each.repeated,
        round(each.seconds),
    )
