"""Presence: what is counted up is counted down, once."""

from otel_waybill.core.events import Held, Released, RunEnded, RunStarted
from otel_waybill.core.gate import Refusal
from otel_waybill.core.presence import Presence

HELD, RELEASED = (kind(queue="orders", breaker="payments") for kind in (Held, Released))


def test_the_first_refusal_gives_the_reason() -> None:
    """However often it is refused, and by whom, one wait is one wait."""
    presence = Presence("orders")
    assert (HELD,) == presence.held(Refusal(5.0, breaker="payments"))
    assert () == presence.held(Refusal(5.0, limit="rate"))
    assert (RELEASED,) == presence.released()
    assert () == presence.released()
    assert (Held(queue="orders", limit="rate"),) == presence.held(Refusal(5.0, limit="rate"))


def test_a_run_ends_the_wait_and_ends_once() -> None:
    """Whoever shows what is running and what is held sees each delivery in one of them."""
    presence = Presence("orders")
    presence.held(Refusal(5.0, breaker="payments"))
    assert (RELEASED, RunStarted(queue="orders", remaining=2.0)) == presence.runs(2.0)
    assert (RunEnded(queue="orders"),) == presence.stopped()
    assert () == presence.stopped()
    assert (RunStarted(queue="orders", remaining=None),) == presence.runs(None)


def test_what_never_ran_does_not_stop() -> None:
    """A delivery that is parked at the door is counted nowhere."""
    presence = Presence(None)
    assert ((), ()) == (presence.stopped(), presence.released())
