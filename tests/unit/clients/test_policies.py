"""Which terms hold for a consumer: an explicit wrap, an exact name, the first glob; and where none can."""

import logging
from typing import Any

import pytest

from otel_waybill.clients.shared.policies import Bound, Consumer, Policies, check_prefetch, known_queue
from otel_waybill.core.spec import PolicySpec
from otel_waybill.errors import InvalidPolicy
from otel_waybill.resilience.guarded import Guarded, Terms, settling


def handle(message: object) -> None:
    """A handler."""


def telling(callback: object) -> Any:  # noqa: ANN401 - a callable with an attribute
    """A wrapper of somebody else's around *callback*, as functools.wraps makes it."""

    def wrapper(*_: object) -> None:
        """Somebody else's."""

    wrapper.__wrapped__ = callback  # type: ignore[attr-defined]
    return wrapper


def terms(prefetch: int) -> Terms:
    """Terms that can be told apart by their prefetch."""
    return Terms.of(PolicySpec(prefetch=prefetch))


ORDERS = Consumer(queue="orders")
UNFIT = {
    "server-named": Consumer(queue="amq.gen-JzTY20BRgKO-HjmUJj0wLg"),
    "exclusive": Consumer(queue="orders", exclusive=True),
    "without acks": Consumer(queue="orders", acknowledges=False),
    "iterated": Consumer(queue="orders", pulled=True),
    "a stream": Consumer(queue="orders", stream=True),
    "read like a stream": Consumer(queue="orders", arguments={"x-stream-offset": "first"}),
    "nameless": Consumer(queue=""),
    "behind an adapter": Consumer(queue="orders", indirect=True),
}
unfit = pytest.mark.parametrize("consumer", UNFIT.values(), ids=UNFIT)


def test_queue_without_a_policy_keeps_its_callback() -> None:
    """A consumer that no policy speaks of is left alone."""
    assert Bound(handle, None) == Policies().bind(handle, ORDERS)
    assert Bound(handle, None) == Policies({"invoices": terms(1), "inv*": terms(2)}).bind(handle, ORDERS)


def test_explicit_wrap_beats_a_name() -> None:
    """What the program says in its code holds, whatever a file says, and settles by return."""
    wrapped = Guarded(handle, terms(1), None, print)
    expected = Bound(handle, settling(terms(1), "return"))
    assert expected == Policies({"orders": terms(2), "*": terms(3)}).bind(wrapped, ORDERS)


def test_exact_name_beats_a_glob() -> None:
    """An exact name holds, wherever it stands; a policy given by name leaves settling to the handler."""
    expected = Bound(handle, settling(terms(2), "handler"))
    assert expected == Policies({"ord*": terms(1), "orders": terms(2)}).bind(handle, ORDERS)


def test_first_glob_holds() -> None:
    """Among globs the order in the file decides."""
    policies = Policies({"inv*": terms(1), "order?": terms(2), "*": terms(3)})
    assert settling(terms(2), "handler") == policies.bind(handle, ORDERS).terms
    assert settling(terms(3), "handler") == policies.bind(handle, Consumer(queue="mails")).terms


def test_globs_know_case() -> None:
    """Queues whose names differ by case are different queues, on every operating system."""
    assert Policies({"ORD*": terms(1)}).bind(handle, ORDERS).terms is None


def test_wrapper_around_a_wrap_is_called_as_it_is() -> None:
    """Another library's decorator above ours stays in place, and no second policy comes on top."""
    wrapped = telling(telling(Guarded(handle, terms(1), None, print)))
    assert Bound(wrapped, None, passed=True) == Policies({"orders": terms(2)}).bind(wrapped, ORDERS)


def test_wrapper_around_a_plain_handler_is_a_handler() -> None:
    """What has nothing of ours inside gets the policy of its queue."""
    wrapped = telling(handle)
    assert Bound(wrapped, settling(terms(2), "handler")) == Policies({"orders": terms(2)}).bind(
        wrapped, ORDERS
    )


def test_wrappers_that_wrap_themselves_do_not_hang() -> None:
    """A callback that lies about what it wraps is a handler like any other."""
    liar = telling(None)
    liar.__wrapped__ = liar
    assert Bound(liar, None) == Policies().bind(liar, ORDERS)


@unfit
def test_wrapper_around_a_wrap_where_no_policy_can_stand_is_an_error(consumer: Consumer) -> None:
    """A decorator in between does not hide that messages could be lost."""
    with pytest.raises(InvalidPolicy, match="a policy cannot stand on queue"):
        Policies().bind(telling(Guarded(handle, terms(1), None, print)), consumer)


@pytest.mark.parametrize("name", ["orders[1]", "what?", "*"])
def test_name_with_the_characters_of_a_glob_is_a_name_too(name: str) -> None:
    """A queue that is really called so is found by its name, and means this one."""
    policies = Policies({"[a-z]*": terms(1), name: terms(2)})
    assert settling(terms(2), "handler") == policies.bind(handle, Consumer(queue=name)).terms
    with pytest.raises(InvalidPolicy):
        policies.bind(handle, Consumer(queue=name, acknowledges=False))


@pytest.mark.parametrize(
    ("expected", "consumer"),
    [
        ("the queue has no name here", Consumer(queue="", acknowledges=False)),
        ("its messages are taken by iteration", Consumer(queue="orders", pulled=True, exclusive=True)),
        ("its adapter hands messages over", Consumer(queue="orders", indirect=True, acknowledges=False)),
        (
            "it consumes without acknowledgements",
            Consumer(queue="orders", acknowledges=False, exclusive=True),
        ),
    ],
)
def test_first_objection_is_the_one_to_act_on(expected: str, consumer: Consumer) -> None:
    """Where several things are in the way, the one that nothing else would help is named."""
    assert str(consumer.objection(PolicySpec())).startswith(expected)


@unfit
def test_wrap_where_no_policy_can_stand_is_an_error(consumer: Consumer) -> None:
    """A policy that could lose messages is refused when consuming starts, not when the first one fails."""
    with pytest.raises(InvalidPolicy, match="a policy cannot stand on queue"):
        Policies().bind(Guarded(handle, terms(1), None, print), consumer)


@unfit
def test_exact_name_where_no_policy_can_stand_is_an_error(consumer: Consumer) -> None:
    """Whoever names a queue means it, and is told why it does not work."""
    with pytest.raises(InvalidPolicy, match="a policy cannot stand on queue"):
        Policies({consumer.queue: terms(1)}).bind(handle, consumer)


@unfit
def test_glob_skips_what_it_cannot_cover(consumer: Consumer, caplog: pytest.LogCaptureFixture) -> None:
    """A glob that also meets reply queues skips them, with one line each that says why."""
    with caplog.at_level(logging.INFO, "otel_waybill"):
        assert Bound(handle, None) == Policies({"*": terms(1), "?*": terms(2)}).bind(handle, consumer)
    (record,) = caplog.records
    assert f"policy '*' does not apply to queue {consumer.queue!r}: " in record.getMessage()


def test_ordinary_arguments_are_no_objection() -> None:
    """A priority queue is a queue."""
    assert Consumer(queue="orders", arguments={"x-priority": 10}).objection(PolicySpec()) is None


@pytest.mark.parametrize(
    "consumer", [UNFIT["server-named"], UNFIT["exclusive"]], ids=["server-named", "exclusive"]
)
def test_policy_that_parks_elsewhere_stands_on_private_queues(consumer: Consumer) -> None:
    """Where what fails has a place to outlive the queue, nothing is lost: by wrap, by name and by glob."""
    parking = Terms.of(PolicySpec(parking="orders.dlq"))
    bound = Bound(handle, settling(parking, "return"))
    assert bound == Policies().bind(Guarded(handle, parking, None, print), consumer)
    passed = telling(Guarded(handle, parking, None, print))
    assert Bound(passed, None, passed=True) == Policies().bind(passed, consumer)
    for name in (consumer.queue, "*"):
        assert Bound(handle, settling(parking, "handler")) == Policies({name: parking}).bind(handle, consumer)


def test_glob_passes_by_the_queue_in_which_it_parks(caplog: pytest.LogCaptureFixture) -> None:
    """A policy for everything does not apply to what has already failed under it."""
    policies = Policies({"*": Terms.of(PolicySpec(parking="orders.dlq"))})
    with caplog.at_level(logging.INFO, "otel_waybill"):
        assert Bound(handle, None) == policies.bind(handle, Consumer(queue="orders.dlq"))
    assert "it is the queue in which this policy parks" in caplog.text


@pytest.mark.parametrize("seen", [None, 1, 65_535])
def test_bounded_prefetch_is_fine(seen: int | None) -> None:
    """Any bound that the program chose is respected, and none yet is for the policy to set."""
    check_prefetch(seen, "orders")


def test_unlimited_prefetch_is_an_error() -> None:
    """Holding must be bounded, and the error says what to do."""
    with pytest.raises(InvalidPolicy, match=r"need a prefetch count of 1 or more.*got 0 \(unlimited\)"):
        check_prefetch(0, "orders")


def test_policy_must_know_its_queue() -> None:
    """A copy has to find its way back: without a name the program is told how to give one."""
    assert "orders" == known_queue("orders")
    nameless: tuple[Any, ...] = (None, "")
    for queue in nameless:
        with pytest.raises(InvalidPolicy, match="wrap\\(handle, queue='orders'\\)"):
            known_queue(queue)
