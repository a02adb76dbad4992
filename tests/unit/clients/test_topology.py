"""What the clients have in common when they prepare a broker."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from otel_waybill.clients.shared.topology import key
from otel_waybill.core.retry import Retry
from otel_waybill.core.spec import PolicySpec
from otel_waybill.core.topology import plan

SPECS = st.builds(
    PolicySpec,
    retry=st.none() | st.builds(Retry, attempts=st.integers(1, 3)),
    topology=st.sampled_from(("declare", "passive", "none")),
    parking=st.none() | st.sampled_from(("orders.dlq", "dlq")),
)


@given(SPECS, SPECS)
def test_what_needs_something_else_has_another_key(one: PolicySpec, other: PolicySpec) -> None:
    """What was prepared for one policy is not missing for another that counts as prepared."""
    if plan("orders", one) != plan("orders", other):
        assert key("orders", one) != key("orders", other)


def test_what_a_plan_does_not_depend_on_does_not_count() -> None:
    """A program that makes a policy for each message prepares the broker once, and remembers it once."""
    spec = PolicySpec(retry=Retry())
    other = replace(spec, describe=lambda _: None, prefetch=7, hold_max=1.0, settle="handler")
    assert 1 == len({key("orders", spec), key("orders", other), key("orders", replace(spec, retry=Retry()))})
    assert key("orders", spec) != key("mails", spec)
