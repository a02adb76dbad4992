"""Fixtures of the conformance suite: every client, every way of applying a policy, one real broker."""

import threading
from collections.abc import Callable, Iterator

import pytest
from opentelemetry import baggage, trace

import otel_waybill as waybill
from conformance.broker import PARKED, Broker
from conformance.clients import registry
from conformance.protocol import Client
from conformance.telemetry import Telemetry
from conformance.ways import BY_NAME, RUN, UNINSTRUMENTED, WRAP, Way
from otel_waybill import guard


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what would only say again, with threads that nobody uses, what it says without."""
    items[:] = [item for item in items if not _idle(item)]


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    """Let the faults of this package fail the test instead of being logged."""
    guard.reraise(on=True)
    yield
    guard.reraise(on=False)


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """Nothing of a test stays: no thread, no patch, nothing current."""
    before = set(threading.enumerate())
    yield
    waybill.uninstrument()
    assert set(threading.enumerate()) <= before
    assert _nothing_current()


@pytest.fixture
def telemetry() -> Telemetry:
    """Where spans go once somebody calls its `instrument`."""
    return Telemetry()


@pytest.fixture
def traced(telemetry: Telemetry) -> Telemetry:
    """The same, with all clients instrumented and no policy anywhere."""
    return telemetry.instrument()


@pytest.fixture
def broker(amqp_url: str) -> Iterator[Broker]:
    """The broker, for an outsider."""
    broker = Broker(amqp_url)
    yield broker
    broker.close()


@pytest.fixture(params=list(registry.ALL))
def client(request: pytest.FixtureRequest, amqp_url: str) -> Iterator[Client]:
    """Each client in turn; whatever leaves a callback must have been expected by the test."""
    client = registry.ALL[request.param](amqp_url)
    try:
        yield client
    finally:
        client.close()
    assert [] == client.raised


@pytest.fixture
def queues(client: Client, broker: Broker, unique: Callable[[str], str]) -> Iterator[Callable[[], str]]:
    """Makes quorum queues; in the end nothing may be left in them, nor parked."""
    made: list[str] = []

    def make() -> str:
        made.append(unique("conformance"))
        broker.declare(made[-1])
        return made[-1]

    yield make
    client.close()
    left = broker.left(*made, *(name + PARKED for name in made))
    for name in made:
        broker.delete(name)
    assert [0, 0] * len(made) == left


@pytest.fixture
def queue(queues: Callable[[], str]) -> str:
    """One such queue."""
    return queues()


@pytest.fixture
def classic(client: Client, broker: Broker, unique: Callable[[str], str]) -> Iterator[str]:
    """One classic queue, in which nothing may be left, nor parked."""
    name = unique("conformance-classic")
    broker.declare(name, **{"x-queue-type": "classic"})
    yield name
    client.close()
    left = broker.left(name, name + PARKED)
    broker.delete(name)
    assert [0, 0] == left


@pytest.fixture(params=[WRAP, BY_NAME], ids=lambda manner: manner.name)
def way(request: pytest.FixtureRequest, client: Client, telemetry: Telemetry) -> Way:
    """The ways of a program that is instrumented and consumes."""
    return Way(request.param, client, telemetry)


@pytest.fixture(params=[WRAP, BY_NAME, UNINSTRUMENTED, RUN], ids=lambda manner: manner.name)
def any_way(request: pytest.FixtureRequest, client: Client, telemetry: Telemetry) -> Way:
    """Every way."""
    return Way(request.param, client, telemetry)


def _idle(item: pytest.Item) -> bool:
    """Return whether *item* is for a client with workers, and gives them nothing to do."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    given = item.callspec.params
    manner = given.get("any_way", given.get("way", RUN))
    return given.get("client") in registry.WITH_WORKERS and manner is RUN


def _nothing_current() -> bool:
    idle = waybill.Waybill() == waybill.current()
    return idle and not baggage.get_all() and not trace.get_current_span().get_span_context().is_valid
