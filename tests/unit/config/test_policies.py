"""Policies from a file: what it may say, and what it is told when it says something else."""

import copy
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_waybill.config.policies import PolicyFile, load
from otel_waybill.config.tables import Unreadable, read
from otel_waybill.core.backoff import Backoff
from otel_waybill.core.limits import ConcurrencyLimit, RateLimit
from otel_waybill.core.match import Named
from otel_waybill.core.retry import Retry, RetryBudget
from otel_waybill.core.spec import BreakerSpec, PolicySpec
from otel_waybill.errors import InvalidPolicyFile

Written = Callable[[str], str]

WHOLE = """
[breakers.payments]
open_for = 3
failure_rate = 0.25
window_calls = 50
slow_after = 2
failures = ["OSError", "shop.errors.Down"]
defer = true

[policies.orders]
breaker = "payments"
concurrency = 4
rate = { runs = 100, per = 2.5, by = "header:tenant" }
on_expired = "ack"
settle = "return"
topology = "passive"
parking = "orders.dlq"

[policies.orders.retry]
attempts = 3
on = "ConnectionError"
park = ["ValueError", "shop.errors.OutOfStock"]
backoff = { first = 0.5, jitter = "full" }
budget = {}

[policies."logs.*"]
prefetch = 5
"""


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Write a file and return its path."""

    def write(text: str) -> str:
        path = tmp_path / "policies.toml"
        path.write_text(text)
        return str(path)

    return write


def test_everything_that_code_can_say(written: Written) -> None:
    """Tables are the dataclasses of the same names, and the order of the file is kept for globs."""
    orders = PolicySpec(
        breaker="payments",
        concurrency=ConcurrencyLimit(4),
        rate=RateLimit(100, per=2.5, by="header:tenant"),
        on_expired="ack",
        settle="return",
        topology="passive",
        parking="orders.dlq",
        retry=Retry(
            attempts=3,
            on=Named(("ConnectionError",)),
            park=Named(("ValueError", "shop.errors.OutOfStock")),
            backoff=Backoff(first=0.5, jitter="full"),
            budget=RetryBudget(),
        ),
    )
    file = load(written(WHOLE))
    payments = BreakerSpec(
        name="payments",
        open_for=3.0,
        failure_rate=0.25,
        window_calls=50,
        slow_after=2.0,
        failures=Named(("OSError", "shop.errors.Down")),
        defer=True,
    )
    assert PolicyFile({"orders": orders, "logs.*": PolicySpec(prefetch=5)}, {"payments": payments}) == file
    assert ["orders", "logs.*"] == list(file.policies)


def test_a_file_may_be_empty(written: Written) -> None:
    """Nothing said is nothing changed."""
    assert PolicyFile({}, {}) == load(written(""))


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        ("policy = 1", "policy", "need one of policies, breakers, got 'policy'"),
        ("policies = 1", "policies", "need a table, got 1"),
        ("[policies]\no = 1", "policies.o", "need a table, got 1"),
        ("[policies.o]\nretry = 3", "policies.o.retry", "need a table, got 3"),
        (
            "[policies.o]\nconcurrency = true",
            "policies.o.concurrency.runs",
            "a whole number, got True",
        ),
        ("[policies.o.retry]\nattempts = 0", "policies.o.retry", "need attempts >= 1, got 0"),
        (
            "[policies.o.retry]\nattempts = '5'",
            "policies.o.retry.attempts",
            "a whole number, got '5'",
        ),
        ("[policies.o.retry]\nin_order = 1", "policies.o.retry.in_order", "true or false, got 1"),
        ("[policies.o]\nhold_max = '5 s'", "policies.o.hold_max", "need a number, got '5 s'"),
        (
            "[policies.o]\nhold_max = nan",
            "policies.o",
            "need 0 < hold_max < inf (seconds), got nan",
        ),
        (
            "[policies.'a b']\nbreaker = 'p'",
            "policies.'a b'.breaker",
            "one of [breakers] (none there), got 'p'",
        ),
        ("[policies.o]\nbreaker = 1", "policies.o.breaker", "need a text, got 1"),
        (
            "[policies.o]\nfallback = true",
            "policies.o.fallback",
            "need one of retry, breaker, rate",
        ),
        ("[policies.o]\ndescribe = 'x'", "policies.o.describe", "need one of retry, breaker, rate"),
        ("[policies.o]\nparking = ''", "policies.o", "1 to 237 bytes for the parking queue, got ''"),
        (
            "[policies.o]\ntopology = 'x'",
            "policies.o.topology",
            "need one of 'declare', 'passive', 'none', got 'x'",
        ),
        (
            "[policies.o]\nsettle = 'x'",
            "policies.o.settle",
            "need one of 'return', 'handler', got 'x'",
        ),
        ("[policies.o.retry]\non = 'Foo'", "policies.o.retry.on", "Python's own exceptions"),
        ("[policies.o.retry]\non = 'print'", "policies.o.retry.on", "Python's own exceptions"),
        (
            "[policies.o.retry]\non = [1]",
            "policies.o.retry.on",
            "the name of an exception, or a list",
        ),
        (
            "[policies.o.retry]\nbackoff = {jitter = 'x'}",
            "policies.o.retry.backoff.jitter",
            "'equal'",
        ),
        ("[policies.o]\nrate = {per = 2}", "policies.o.rate.runs", "need a value, got none"),
        ("[policies.o]\nrate = {runs = 2, by = 'x'}", "policies.o.rate", "by 'routing_key' or"),
        ("[breakers.payments]\nname = 'p'", "breakers.payments.name", "need one of window"),
        ("[breakers.'']", "breakers.''", "need a name for the breaker, got ''"),
        ("[policies", "", "need a readable TOML file, got: Expected ']'"),
    ],
)
def test_a_wrong_file_is_told_where_and_why(written: Written, text: str, key: str, problem: str) -> None:
    """One error with the file, the key, the rule and what was seen."""
    path = written(text)
    with pytest.raises(InvalidPolicyFile) as caught:
        load(path)
    error = caught.value
    assert (path, key) == (error.file, error.key)
    assert problem in error.problem
    assert str(error).startswith(f"{path}: {key}: " if key else f"{path}: need")
    assert [str(error)] * 2 == [str(pickle.loads(pickle.dumps(error))), str(copy.copy(error))]  # noqa: S301 - ours


def test_a_file_that_is_not_there_or_is_no_text(tmp_path: Path) -> None:
    """Neither is a reason for a traceback of somebody else's."""
    with pytest.raises(InvalidPolicyFile, match="No such file"):
        load(str(tmp_path / "absent.toml"))
    (tmp_path / "image.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidPolicyFile, match="need a readable TOML file"):
        load(str(tmp_path / "image.toml"))


def test_exceptions_by_name_mean_subclasses_too() -> None:
    """Nothing is imported: the names of an exception's classes tell."""
    named = Named(("OSError", f"{__name__}.OddError"))
    assert [True, True, False] == [named(each) for each in (ConnectionError(), OddError(), ValueError())]


class OddError(Exception):
    """One that is not Python's own."""


keys = st.sampled_from(("retry", "attempts", "rate", "runs", "by", "on", "breaker", "settle", "prefetch"))
plain = st.one_of(st.text(max_size=5), st.integers(), st.floats(), st.booleans())
values = st.one_of(plain, st.lists(plain, max_size=3), st.dictionaries(keys, plain, max_size=3))


@given(st.dictionaries(keys, values, max_size=4))
def test_whatever_a_table_says_is_read_or_told(table: dict[str, object]) -> None:
    """No value of any type makes another error than ours, and that tells where."""
    with suppress(Unreadable):
        assert isinstance(read(PolicySpec, table, "policies.orders", fallback=False), PolicySpec)
