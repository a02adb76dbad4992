"""A handler under a policy, and the terms it runs under."""

import gc
from collections.abc import Callable

import pytest

from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.verdicts import Run
from otel_waybill.resilience.breaker import CircuitBreaker
from otel_waybill.resilience.guarded import Guarded, Terms, settling


class Once:
    """A callable that is no function, and so no method of a class that has it."""

    def __call__(self, message: object) -> object:
        """Handle one message."""
        return "once", message


def handle(message: object) -> object:
    """Handle one message."""
    return message


def test_stands_where_the_handler_stood() -> None:
    """The guarded handler has the name and the words of the one behind it, for logs and docs."""
    guarded = Guarded(handle, Terms.of(PolicySpec()), "orders", lambda *_: None)
    assert ("handle", "Handle one message.") == (guarded.__name__, guarded.__doc__)  # type: ignore[attr-defined]
    assert repr(guarded).startswith("<Guarded <function handle at ")
    assert repr(guarded).endswith(" queue='orders'>")


def test_hands_itself_and_the_delivery_on() -> None:
    """A client that calls it gets what delivering under the policy returns."""
    terms = Terms.of(PolicySpec())
    guarded = Guarded(handle, terms, None, lambda *delivery: delivery)
    assert (guarded, "message") == guarded("message")
    assert (handle, terms, None) == (guarded.handler, guarded.terms, guarded.queue)


def test_wrapped_method_is_the_method_of_its_instance() -> None:
    """A decorated method handles with the instance it is called on, under the same terms."""
    terms = Terms.of(PolicySpec())

    def wrap(method: Callable[..., object]) -> Guarded:
        return Guarded(method, terms, "orders", lambda guarded, *delivery: guarded.handler(*delivery))

    class Shop:
        name = "shop"
        handle_aside = wrap(Once())

        @wrap
        def handle(self, message: str) -> object:
            """Handle one message."""
            return self.name, message

    shop = Shop()
    assert ("shop", "message") == shop.handle("message")
    assert (terms, "orders") == (shop.handle.terms, shop.handle.queue)
    assert Shop.handle is Shop.__dict__["handle"]
    assert shop.handle_aside is Shop.__dict__["handle_aside"]
    assert ("once", "message") == shop.handle_aside("message")


def test_callable_without_a_name_can_be_guarded() -> None:
    """Any callable is a handler, also one that has no name."""

    class Handler:
        def __call__(self, message: object) -> object:
            """Handle."""
            return message

    assert "queue=None" in repr(Guarded(Handler(), Terms.of(PolicySpec()), None, print))


def test_who_settles_is_decided_once() -> None:
    """What the policy says about settling holds; where it says nothing, the place decides."""
    said = Terms.of(PolicySpec(settle="handler"))
    assert said is settling(said, "return")
    assert "return" == settling(Terms.of(PolicySpec()), "return").spec.settle


@pytest.fixture
def breaker() -> CircuitBreaker:
    """A breaker that nothing else uses."""
    gc.collect()
    return CircuitBreaker("guarded", clock=lambda: 0.0)


def test_handler_uses_the_permit_of_its_policy(breaker: CircuitBreaker) -> None:
    """A handler that calls through the breaker of its own policy takes one place, not two."""
    terms = Terms.of(PolicySpec(), breaker=breaker)
    permit = breaker.acquire(0.0, 0.5).permit
    assert permit is not None
    with terms.lent(permit), breaker:
        pass
    breaker.succeed(permit, 0.0, 0.5)
    assert (1, 0, 0) == breaker._core._window.totals(0.0)


@pytest.mark.parametrize("with_breaker", [True, False])
def test_without_a_permit_nothing_is_lent(breaker: CircuitBreaker, *, with_breaker: bool) -> None:
    """A run that needed no permit runs in a block that does nothing."""
    with Terms.of(PolicySpec(), breaker=breaker if with_breaker else None).lent(None):
        pass


def test_run_says_who_is_called() -> None:
    """The handler, or the substitute where the run is one in its place; a policy has one or has not."""
    substituted, bare = Terms.of(PolicySpec(fallback=True), fallback=repr), Terms.of(PolicySpec())
    for attempt, in_its_place in ((Run(attempt=1), str), (Run(attempt=1, fallback=True), repr)):
        assert in_its_place is substituted.handler(attempt, str)
        assert str is bare.handler(attempt, str)


def test_delivery_without_a_consumer_holds() -> None:
    """Where there is no consumer that could leave its queue, single_active means nothing; the rest stays."""
    terms = Terms.of(PolicySpec(single_active=True, prefetch=7))
    assert PolicySpec(prefetch=7) == terms.holding().spec
    assert terms.shares is terms.holding().shares
    shared = Terms.of(PolicySpec())
    assert shared is shared.holding()
