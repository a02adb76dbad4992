"""Do no harm: what our own faults do to the program around them."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from otel_waybill import guard
from otel_waybill.guard import harmless


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Faults are hidden here, as they are in production, whatever the other tests want."""
    before = harmless.loud
    guard.reraise(on=False)
    yield
    guard.reraise(on=before)


def test_the_program_goes_on_after_a_fault_of_ours() -> None:
    """What follows the block runs, and what the block did before the fault stays done."""
    done = []
    with harmless("counting"):
        done.append("before")
        _fail("x")
        done.append("never")
    done.append("after")

    assert ["before", "after"] == done


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
def test_interrupts_and_cancellation_are_never_swallowed(kind: type[BaseException]) -> None:
    """Ctrl-C, exit and cancellation leave the block as the same object."""
    error = kind()
    with pytest.raises(kind) as caught, harmless("waiting"):
        raise error

    assert error is caught.value


def test_the_fault_is_said_in_words_a_user_can_act_on(caplog: pytest.LogCaptureFixture) -> None:
    """One ERROR on the logger of the package tells what failed, that the program goes on, and where."""
    with harmless("injecting headers"):
        _fail("x")

    [record] = caplog.records
    assert ("otel_waybill", logging.ERROR) == (record.name, record.levelno)
    first, second, *_ = record.getMessage().splitlines()
    assert "otel-waybill: injecting headers failed; your program goes on without it (logged once)" == first
    assert "Traceback (most recent call last):" == second
    assert "in _fail" in record.getMessage()
    assert "builtins.ValueError" == record.getMessage().splitlines()[-1]


def test_the_log_never_quotes_a_message(caplog: pytest.LogCaptureFixture) -> None:
    """The text of the exception and its frames' variables may be message bodies and are not logged."""
    body = "-".join(["4111"] * 4)
    with harmless("reading a secret"):
        _fail(body)

    assert body not in caplog.text
    assert caplog.records[0].exc_info is None


def test_the_same_fault_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A fault that every message causes again costs one log line, also through another instance."""
    once = harmless("doing it often")
    for _ in range(3):
        with once:
            _fail("x")
    with harmless("doing it often"):
        _fail("y")

    assert 1 == len(caplog.records)


def test_different_faults_are_logged_each(caplog: pytest.LogCaptureFixture) -> None:
    """Another activity, another kind of exception and another line are each news."""
    with harmless("first"):
        _fail("x")
    with harmless("second"):
        _fail("x")
    with harmless("second"):
        _fail("x", KeyError)
    with harmless("second"):
        raise ValueError

    assert 4 == len(caplog.records)


def test_a_broken_log_does_no_harm_either() -> None:
    """A log filter that raises, which is not even our fault, does not reach the program through us."""

    def broken(_: logging.LogRecord) -> bool:
        raise RuntimeError

    logger = logging.getLogger("otel_waybill")
    logger.addFilter(broken)
    try:
        with harmless("logging to a broken log"):
            _fail("x")
    finally:
        logger.removeFilter(broken)


def test_one_instance_may_be_entered_again_inside_itself() -> None:
    """A shared instance keeps no state, so nesting it is safe."""
    shared = harmless("nesting")
    done = []
    with shared:
        with shared:
            _fail("x")
        done.append("outer goes on")

    assert ["outer goes on"] == done


def test_a_warning_is_logged_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each message would say anew is said once, with the facts of the first time."""
    monkeypatch.setattr(guard, "_warned", set())
    for seconds in (5, 7):
        guard.warn_once("%d s ahead", seconds)
    guard.warn_once("something else")

    assert ["5 s ahead", "something else"] == [record.getMessage() for record in caplog.records]


def test_our_own_tests_see_the_faults() -> None:
    """With the switch on, a fault leaves the block; with the switch off again, it does not."""
    guard.reraise(on=True)
    with pytest.raises(ValueError, match="loud"), harmless("testing"):
        _fail("loud")

    guard.reraise(on=False)
    with harmless("testing"):
        _fail("hidden")


def _fail(text: str, kind: type[Exception] = ValueError) -> None:
    raise kind(text)
