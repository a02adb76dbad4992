"""Backoff: how long a failed message waits."""

import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_waybill.core.backoff import LONGEST_DELAY, Backoff, Jitter
from unit.core.objections import objection

attempts = st.integers(1, 10**6)
chances = st.floats(0, 1, exclude_max=True)
jitters: st.SearchStrategy[Jitter] = st.sampled_from(("equal", "full", "none"))


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    """Any backoff that may be made."""
    ceiling = draw(st.floats(1e-3, LONGEST_DELAY))
    first = draw(st.floats(1e-3, ceiling))
    factor = draw(st.floats(1, 1e6))
    return Backoff(first=first, ceiling=ceiling, factor=factor, jitter=draw(jitters))


def test_default_doubles_from_one_second_to_thirty() -> None:
    """Without settings the waits are at most 1, 2, 4, 8, 16 and then 30 seconds."""
    backoff = Backoff(jitter="none")
    assert [1, 2, 4, 8, 16, 30, 30] == [backoff.delay(attempt, 0.5) for attempt in range(1, 8)]


@given(backoffs(), attempts, chances)
def test_delay_never_passes_the_ceiling(backoff: Backoff, attempt: int, u: float) -> None:
    """No attempt number, however large, yields a delay above the ceiling."""
    assert 0 <= backoff.delay(attempt, u) <= backoff.ceiling


@given(backoffs(), attempts, chances)
def test_delay_never_shrinks_from_one_attempt_to_the_next(backoff: Backoff, attempt: int, u: float) -> None:
    """With equal luck, a later attempt never waits less than an earlier one."""
    assert backoff.delay(attempt, u) <= backoff.delay(attempt + 1, u)


def test_delay_survives_numbers_that_overflow() -> None:
    """A message that has failed for ages waits for the ceiling, like any other."""
    assert 30.0 == Backoff(jitter="none").delay(sys.maxsize, 0.0)


@given(attempts, chances)
def test_equal_jitter_leaves_half_to_chance(attempt: int, u: float) -> None:
    """Half of the wait is certain, so that no retry comes at once; the other half is spread."""
    whole = Backoff(jitter="none").delay(attempt, u)
    assert whole / 2 <= Backoff().delay(attempt, u) <= whole
    assert whole / 2 + whole / 2 * u == Backoff().delay(attempt, u)


@given(attempts, chances)
def test_full_jitter_leaves_everything_to_chance(attempt: int, u: float) -> None:
    """The wait is anywhere between nothing and the whole."""
    assert Backoff(jitter="none").delay(attempt, u) * u == Backoff(jitter="full").delay(attempt, u)


@given(attempts, chances)
def test_no_jitter_leaves_nothing_to_chance(attempt: int, u: float) -> None:
    """The wait depends on the attempt alone."""
    assert Backoff(jitter="none").delay(attempt, 0.0) == Backoff(jitter="none").delay(attempt, u)


@given(backoffs(), st.integers(2, 30), st.data())
def test_every_delay_lies_in_one_of_the_spans(backoff: Backoff, runs: int, data: st.DataObject) -> None:
    """Whatever chance decides, a wait between two runs was announced."""
    attempt = data.draw(st.integers(1, runs - 1))
    delay = backoff.delay(attempt, data.draw(chances))
    assert any(low <= delay <= high for low, high in backoff.spans(runs))


def test_spans_cover_all_waits_but_none_after_the_last_run() -> None:
    """Three runs have two waits between them; one run has none."""
    assert [(0.5, 1.0), (1.0, 2.0)] == list(Backoff().spans(3))
    assert [] == list(Backoff().spans(1))


def test_spans_of_endless_retrying_end() -> None:
    """A policy that never gives up starts as fast as any other."""
    assert 6 == len(list(Backoff().spans(sys.maxsize)))
    assert [(1.0, 1.0)] == list(Backoff(factor=1.0, jitter="none").spans(sys.maxsize))


def test_longest_delay_is_a_year() -> None:
    """A ceiling may lie far beyond the ladder, over which the message then goes again and again."""
    assert 365 * 86_400 == LONGEST_DELAY
    assert LONGEST_DELAY == Backoff(ceiling=LONGEST_DELAY).ceiling


@pytest.mark.parametrize(
    ("first", "ceiling"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (1.0, math.nan)]
)
def test_refuses_a_first_delay_outside_its_range(first: float, ceiling: float) -> None:
    """A first delay that is not above 0 and at most the ceiling is an error that says so."""
    assert f"need 0 < first <= ceiling (seconds), got ({first}, {ceiling})" == objection(
        lambda: Backoff(first=first, ceiling=ceiling)
    )


@pytest.mark.parametrize("ceiling", [31_536_000.1, math.inf])
def test_refuses_a_ceiling_past_a_year(ceiling: float) -> None:
    """A wait that nobody will live to see is a mistake."""
    assert f"need ceiling <= 31536000 (seconds), got {ceiling}" == objection(lambda: Backoff(ceiling=ceiling))
    assert 31_536_000.0 == Backoff(ceiling=31_536_000.0).ceiling


@pytest.mark.parametrize("factor", [0.999, 0.0, -2.0, math.inf, math.nan])
def test_refuses_a_factor_that_does_not_grow(factor: float) -> None:
    """A factor below 1, or none at all, is an error."""
    assert f"need 1 <= factor < inf, got {factor}" == objection(lambda: Backoff(factor=factor))


def test_refuses_an_unknown_jitter() -> None:
    """A misspelt word is an error that lists the right ones."""
    wrong: Any = "half"
    assert "need jitter in 'equal', 'full', 'none', got 'half'" == objection(lambda: Backoff(jitter=wrong))
