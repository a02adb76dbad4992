"""Names that were generated for one use, and names that only look like it."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_waybill.core.anonymity import is_anonymous


@pytest.mark.parametrize(
    "name",
    [
        "amq.gen-JzTY20BRgKO-HjmUJj0wLg",
        "spring.gen-4F2mJ7eLTYKdZ0sGQ5rG6A",
        "orders.anonymous.4F2mJ7eLTYKdZ0sGQ5rG6A",
        "orders.anonymous.-_2mJ7eLTYKdZ0sGQ5rG6A",
        "123e4567-e89b-12d3-a456-426614174000",
        "123E4567-E89B-12D3-A456-426614174000",
        "amq_123e4567e89b12d3a456426614174000",
        "amq_0x3a5491cdf8a45b61e20c55f4d3c8bfee",
        "amq_0x5491cdf8a45b61e20c55f4d3c8bfee",
        "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAxMTQ",
    ],
)
def test_a_generated_name_is_anonymous(name: str) -> None:
    """Names made up by the broker, Spring, aio-pika or for a reply say nothing about the program."""
    assert is_anonymous(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "orders",
        "amq.topic",
        "amq.rabbitmq.reply-to",
        "orders.amq.gen-x",
        "orders.anonymous.short",
        "orders.anonymous.4F2mJ7eLTYKdZ0sGQ5rG6A.parked",
        "order.123e4567-e89b-12d3-a456-426614174000",
        "123e4567e89b12d3a456426614174000",
        "amq_orders",
        "amq_123e4567e89b12d3a456426614174000x",
        "amq_0x",
        "amq_0x123e4567e89b12d3a4564266141740000",
    ],
)
def test_a_name_that_somebody_chose_is_not_anonymous(name: str) -> None:
    """A name only resembling a generated one is kept."""
    assert not is_anonymous(name)


@given(st.uuids())
def test_every_uuid_is_anonymous(value: uuid.UUID) -> None:
    """Whatever its version, as written by ``str`` and in aio-pika's own form."""
    assert is_anonymous(str(value))
    assert is_anonymous(f"amq_{value.hex}")
