"""Hooks: the right one for each operation, in either form, and secrets by their names."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.trace import INVALID_SPAN, Span

from otel_waybill.telemetry.hooks import Hooks, Message, redact_secrets

MESSAGE = Message(body="the body", properties="the properties")
OURS = (INVALID_SPAN, MESSAGE)
THEIRS = (INVALID_SPAN, "the body", "the properties")


class Called:
    """Remembers what it was called with."""

    def __init__(self) -> None:
        self.args: tuple[object, ...] = ()

    def two(self, span: Span, message: Message) -> None:
        """Our form."""
        self.args = (span, message)

    def three(self, span: Span, body: object, properties: object) -> None:
        """The form of OpenTelemetry's own."""
        self.args = (span, body, properties)

    def one_more_with_a_default(self, span: Span, message: Message, prefix: str = "") -> None:
        """Our form, with something of the program's."""
        self.args = (span, message)
        assert not prefix

    def anything(self, *args: object) -> None:
        """Any form."""
        self.args = args

    def named(self, span: Span, message: Message, *, tenant: str = "") -> None:
        """Our form, with a keyword."""
        self.args = (span, message)
        assert not tenant

    def of_tenant(self, tenant: str, span: Span, message: Message) -> None:
        """Our form, once somebody has said which tenant."""
        self.args = (span, message)
        assert "acme" == tenant


@pytest.mark.parametrize(
    ("expected", "choose"),
    [
        (OURS, lambda called: called.two),
        (THEIRS, lambda called: called.three),
        (OURS, lambda called: called.one_more_with_a_default),
        (OURS, lambda called: called.anything),
        (OURS, lambda called: called.named),
        (OURS, lambda called: functools.partial(called.of_tenant, "acme")),
        (THEIRS, lambda called: lambda span, text, about: called.three(span, body=text, properties=about)),
    ],
)
def test_a_hook_is_called_in_the_form_it_was_written_in(
    expected: tuple[object, ...], choose: Callable[[Called], Any]
) -> None:
    """Three required arguments are OpenTelemetry's form; everything else is ours."""
    called = Called()
    hook = Hooks(settle=choose(called)).for_operation("settle")
    assert hook is not None
    hook(INVALID_SPAN, MESSAGE)
    assert expected == called.args


def test_a_hook_that_does_not_tell_its_form_gets_ours() -> None:
    """Some callables of C have no signature, and a wrong one is the program's own mistake."""
    hook: Any = min
    assert hook is Hooks(publish=hook).for_operation("send")
    unspeakable = Called()
    unspeakable.__signature__ = "nonsense"  # type: ignore[attr-defined]
    unspoken: Any = unspeakable
    with pytest.raises(TypeError):
        Hooks(publish=unspoken).for_operation("send")(INVALID_SPAN, MESSAGE)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("expected", "kind"), [("p", "send"), ("c", "receive"), ("c", "process"), ("s", "settle")]
)
def test_each_operation_has_its_hook(expected: str, kind: str) -> None:
    """Publishing, consuming in either way, and settling."""

    def named(name: str) -> Callable[[Span, Message], object]:
        return lambda _span, _message: name

    hook = Hooks(publish=named("p"), consume=named("c"), settle=named("s")).for_operation(kind)
    assert hook is not None
    assert expected == hook(INVALID_SPAN, MESSAGE)


@pytest.mark.parametrize("kind", ["send", "receive", "process", "settle"])
def test_nobody_needs_hooks(kind: str) -> None:
    """Without any there is none to call."""
    assert Hooks().for_operation(kind) is None


@pytest.mark.parametrize(
    ("expected", "name"),
    [
        ("[redacted]", "Authorization"),
        ("[redacted]", "X-Auth-Token"),
        ("[redacted]", "set-cookie"),
        ("[redacted]", "aws_secret_access_key"),
        ("[redacted]", "passwd"),
        ("[redacted]", "PASSWORD"),
        ("[redacted]", "apikey"),
        ("[redacted]", "api-key"),
        ("[redacted]", "credentials"),
        ("[redacted]", "sessionid"),
        ("value", "tenant"),
        ("value", "x-request-id"),
    ],
)
def test_names_give_secrets_away(expected: str, name: str) -> None:
    """What is called like a secret is not shown, whatever it is."""
    assert expected == redact_secrets(name, "value")
