"""Fixtures for every test."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, Phase, settings

from otel_waybill.testing.broker import broker

# How long an example takes says something about the machine, not about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A mutant must not get away by luck, nor its run take long: nox -s mutants. Nobody reads how it failed.
settings.register_profile(
    "mutants",
    settings.get_profile("untimed"),
    derandomize=True,
    max_examples=30,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("untimed")


@pytest.hookimpl(trylast=True)  # after Hypothesis has marked its own
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Try examples before properties on a mutant: most are done with by the first test that fails."""
    if config.getoption("--hypothesis-profile") == "mutants":
        items.sort(key=lambda item: item.get_closest_marker("hypothesis") is not None)


@pytest.fixture(scope="session")
def amqp_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of the one broker of this run; having none is an error, never a skip."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with ExitStack() as stack:
        # Which broker it is, and how long it takes, is for the person waiting.
        with capture.global_and_fixture_disabled():
            rabbit = stack.enter_context(broker())
        yield rabbit.url


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes names for queues and exchanges that no other test has, on a broker shared with anybody."""
    return lambda prefix: f"{prefix}-{secrets.token_hex(6)}"
