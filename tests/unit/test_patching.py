"""The ledger: what is replaced, what is put back, and what happens when others patch as well."""

import asyncio
import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import wrapt

from otel_waybill.patching import PatchSet, Proxy, Wrapper, argument, passthrough, replaced


class Base:
    """Stands for a client's class."""

    def send(self, body: str) -> str:
        """Say what was sent."""
        return f"sent {body}"

    @classmethod
    def made(cls) -> str:
        """Say for which class."""
        return f"made {cls.__name__}"

    @staticmethod
    def parsed(body: str) -> str:
        """Say what was parsed."""
        return f"parsed {body}"


@pytest.fixture(name="client")
def _client() -> type[Base]:
    """Give each test a class of its own to patch."""
    return type("Client", (), {name: vars(Base)[name] for name in ("send", "made", "parsed")})


def marking(mark: str) -> Wrapper:
    """Return a wrapper that shows in the result that it ran."""

    def wrapper(
        wrapped: Callable[..., str], _instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        return f"{mark}({wrapped(*args, **kwargs)})"

    return wrapper


def test_a_patched_method_runs_through_the_wrapper(client: type[Base]) -> None:
    """Objects made before and after the patch, and subclasses, are all seen."""
    before = client()
    PatchSet().add(client, "send", marking("ours")).apply()
    after = client()
    subclass: type[Base] = type("Subclass", (client,), {})

    assert ["ours(sent x)"] * 3 == [before.send("x"), after.send(body="x"), subclass().send("x")]


def test_the_wrapper_gets_the_instance_and_the_bound_method(client: type[Base]) -> None:
    """A wrapper calls ``wrapped(*args)`` without the instance, which it is told."""
    seen: list[object] = []

    def wrapper(
        wrapped: Callable[..., str], instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        seen.append((instance, args, kwargs))
        return wrapped(*args, **kwargs)

    PatchSet().add(client, "send", wrapper).apply()
    one, two = client(), client()

    assert "sent x" == one.send("x")
    assert "sent y" == client.send(two, body="y")
    assert [(one, ("x",), {}), (two, (), {"body": "y"})] == seen


def test_class_and_static_methods_stay_what_they_are(client: type[Base]) -> None:
    """A class method still gets the class it was called on, a static method nothing."""
    patches = PatchSet().add(client, "made", marking("ours")).add(client, "parsed", marking("ours"))
    subclass: type[Base] = type("Subclass", (client,), {})
    patches.apply()

    assert ["ours(made Client)", "ours(made Subclass)"] == [client.made(), subclass.made()]
    assert ["ours(parsed x)", "ours(parsed x)"] == [client.parsed("x"), client().parsed("x")]


@pytest.mark.parametrize("name", ["send", "made", "parsed"])
def test_restore_puts_back_the_identical_object(client: type[Base], name: str) -> None:
    """The class dictionary holds the very descriptor that it held before."""
    before = vars(client)[name]
    patches = PatchSet().add(client, name, marking("ours"))
    patches.apply()
    patches.restore()

    assert before is vars(client)[name]


def test_restore_leaves_nothing_where_the_method_was_inherited(client: type[Base]) -> None:
    """A subclass that had only inherited the method inherits it again."""
    subclass: type[Base] = type("Subclass", (client,), {})
    patches = PatchSet().add(subclass, "send", marking("ours"))
    patches.apply()

    assert "ours(sent x)" == subclass().send("x")
    assert "sent x" == client().send("x")
    patches.restore()
    assert "send" not in vars(subclass)
    assert "sent x" == subclass().send("x")


def test_functions_of_a_module_are_patched_and_restored_too() -> None:
    """A module is an owner like a class."""
    module = types.ModuleType("client")
    vars(module)["connect"] = connect = Base.parsed
    patches = PatchSet().add(module, "connect", marking("ours"))
    patches.apply()

    assert "ours(parsed x)" == module.connect("x")
    patches.restore()
    assert connect is module.connect


def test_applying_twice_wraps_once(client: type[Base]) -> None:
    """Instrumenting again changes nothing, and one restore still undoes it."""
    before = vars(client)["send"]
    patches = PatchSet().add(client, "send", marking("ours"))
    patches.apply()
    patches.apply()

    assert "ours(sent x)" == client().send("x")
    patches.restore()
    patches.restore()
    assert before is vars(client)["send"]


def test_applying_after_a_restore_wraps_again(client: type[Base]) -> None:
    """Instrument, uninstrument, instrument leaves one wrapper."""
    patches = PatchSet().add(client, "send", marking("ours"))
    patches.apply()
    patches.restore()
    patches.apply()

    assert "ours(sent x)" == client().send("x")


def test_a_missing_attribute_leaves_everything_unpatched(client: type[Base]) -> None:
    """A client whose version lacks a method is not half instrumented."""
    before = vars(client)["send"]
    patches = PatchSet().add(client, "send", marking("ours")).add(client, "no_such_method", marking("ours"))

    with pytest.raises(AttributeError, match="no_such_method"):
        patches.apply()
    assert before is vars(client)["send"]


def test_a_reference_taken_while_patched_goes_quiet_after_restore(client: type[Base]) -> None:
    """A bound method that the program kept is no longer instrumented either."""
    patches = PatchSet().add(client, "send", marking("ours"))
    patches.apply()
    kept = client().send
    patches.restore()

    assert "sent x" == kept("x")


def chained(inner: Callable[..., str]) -> Callable[..., str]:
    """Wrap as a library that says what it wraps does."""

    @functools.wraps(inner)
    def outer(*args: object, **kwargs: object) -> str:
        return f"theirs({inner(*args, **kwargs)})"

    return outer


def opaque(inner: Callable[..., str]) -> Callable[..., str]:
    """Wrap as a library that does not say what it wraps does."""

    def outer(self: object, *args: object, **kwargs: object) -> str:
        return f"theirs({inner.__get__(self, type(self))(*args, **kwargs)})"

    return outer


def with_wrapt(inner: Callable[..., str]) -> Callable[..., str]:
    """Wrap as OpenTelemetry's own instrumentations do."""
    wrapped: Callable[..., str] = wrapt.FunctionWrapper(inner, marking("theirs"))
    return wrapped


theirs = pytest.mark.parametrize("wrap", [chained, opaque, with_wrapt])


@theirs
def test_a_patch_under_somebody_elses_goes_quiet_in_place(
    client: type[Base], wrap: Callable[[Callable[..., str]], Callable[..., str]]
) -> None:
    """Restoring takes nothing from whoever wrapped over us: their wrapper stays, ours does nothing."""
    patches = PatchSet().add(client, "send", marking("ours"))
    patches.apply()
    over = wrap(vars(client)["send"])
    client.send = over  # type: ignore[method-assign]  # as a patch does
    assert "theirs(ours(sent x))" == client().send("x")

    patches.restore()

    assert over is vars(client)["send"]
    assert "theirs(sent x)" == client().send("x")


@theirs
def test_no_call_is_ever_counted_twice_after_applying_again(
    client: type[Base], wrap: Callable[[Callable[..., str]], Callable[..., str]]
) -> None:
    """With another wrapper in between, ours still runs once: revived in place or put on top."""
    patches = PatchSet().add(client, "send", marking("ours"))
    patches.apply()
    client.send = wrap(vars(client)["send"])  # type: ignore[method-assign]  # as a patch does
    for _ in range(2):
        patches.restore()
        patches.apply()
        patches.apply()

    assert 1 == client().send("x").count("ours")
    assert 1 == client().send("x").count("theirs")


def test_a_quiet_patch_is_revived_where_it_stands(client: type[Base]) -> None:
    """Where the other wrapper says what it wraps, the order of the two does not change."""
    patches = PatchSet().add(client, "send", marking("ours"))
    patches.apply()
    client.send = over = chained(vars(client)["send"])  # type: ignore[method-assign]  # as a patch does
    patches.restore()
    patches.apply()

    assert over is vars(client)["send"]
    assert "theirs(ours(sent x))" == client().send("x")


def test_a_patch_that_somebody_tore_out_is_put_back(client: type[Base]) -> None:
    """OpenTelemetry's ``unwrap`` takes the outermost wrapper, whoever's it is; applying again heals that."""
    before = vars(client)["send"]
    patches = PatchSet().add(client, "send", marking("ours"))
    patches.apply()
    client.send = before  # type: ignore[method-assign]  # as unwrap does
    assert "sent x" == client().send("x")

    patches.apply()
    assert "ours(sent x)" == client().send("x")
    patches.restore()
    assert before is vars(client)["send"]


def test_a_wrapper_that_wraps_itself_does_not_hang_us(client: type[Base]) -> None:
    """What others claim to wrap is looked at within bounds."""
    patches = PatchSet().add(client, "send", marking("ours"))
    patches.apply()
    liar = opaque(vars(client)["send"])
    vars(liar)["__wrapped__"] = liar
    client.send = liar  # type: ignore[method-assign]  # as a patch does
    patches.apply()

    assert "ours(theirs(sent x))" == client().send("x")


def test_a_patch_over_somebody_elses_restores_theirs(client: type[Base]) -> None:
    """What was there when we came stays when we go, even if it was a wrapper itself."""
    client.send = theirs = with_wrapt(vars(client)["send"])  # type: ignore[method-assign]  # as a patch does
    patches = PatchSet().add(client, "send", marking("ours"))
    patches.apply()

    assert "ours(theirs(sent x))" == client().send("x")
    patches.restore()
    assert theirs is vars(client)["send"]


def test_a_passthrough_block_silences_every_patch(client: type[Base]) -> None:
    """Our own publishes and acks are not seen by our own patches; after the block calls are seen again."""
    PatchSet().add(client, "send", marking("ours")).apply()
    with passthrough():
        assert passthrough.active()
        with passthrough():
            assert "sent x" == client().send("x")
        assert "sent x" == client().send("x")

    assert not passthrough.active()
    assert "ours(sent x)" == client().send("x")


def test_a_passthrough_block_ends_when_it_fails(client: type[Base]) -> None:
    """An exception on the way out does not leave the patches silent."""
    PatchSet().add(client, "send", marking("ours")).apply()
    with pytest.raises(ZeroDivisionError), passthrough():
        raise ZeroDivisionError

    assert "ours(sent x)" == client().send("x")


def test_an_outer_patched_method_hides_the_inner_one_it_calls(client: type[Base]) -> None:
    """One publish is one span, also where a client's method calls another patched one."""

    class Outer:
        def publish(self) -> str:
            return client().send("x")

    def wrapper(
        wrapped: Callable[..., str], _instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        with passthrough():
            return f"outer({wrapped(*args, **kwargs)})"

    PatchSet().add(client, "send", marking("inner")).add(Outer, "publish", wrapper).apply()

    assert "outer(sent x)" == Outer().publish()


def test_a_task_started_inside_is_not_silenced_for_life(client: type[Base]) -> None:
    """A connection's reader task copies the context it starts in; its consumers are seen all the same."""
    PatchSet().add(client, "send", marking("ours")).apply()

    async def scenario() -> tuple[str, str]:
        proceed = asyncio.Event()

        async def reader() -> str:
            await proceed.wait()
            return client().send("x")

        with passthrough():
            task = asyncio.create_task(reader())
            await asyncio.sleep(0)
            inside = client().send("x")
        proceed.set()
        return inside, await task

    assert ("sent x", "ours(sent x)") == asyncio.run(scenario())


def test_tasks_do_not_silence_each_other(client: type[Base]) -> None:
    """While one task publishes for us, the program's own publishes in another task are seen."""
    PatchSet().add(client, "send", marking("ours")).apply()

    async def scenario() -> str:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def us() -> None:
            with passthrough():
                entered.set()
                await leave.wait()

        task = asyncio.create_task(us())
        await entered.wait()
        seen = client().send("x")
        leave.set()
        await task
        return seen

    assert "ours(sent x)" == asyncio.run(scenario())


@pytest.mark.parametrize(
    ("expected", "args", "kwargs"),
    [
        ("here", ("first", "here"), {}),
        ("here", ("first",), {"body": "here"}),
        ("here", (), {"body": "here"}),
        (None, ("first", None), {}),
        ("default", ("first",), {}),
        ("default", (), {}),
    ],
)
def test_an_argument_is_found_however_it_was_passed(
    expected: object, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """By position, by name, or not at all; a None that was passed is a None."""
    assert expected == argument(args, kwargs, 1, "body", "default")


@pytest.mark.parametrize(
    ("expected", "args", "kwargs"),
    [
        ((("a", "new", "c"), {"d": 1}), ("a", "b", "c"), {"d": 1}),
        ((("new",), {}), ("b",), {}),
        ((("a",), {"body": "new"}), ("a",), {"body": "b"}),
        (((), {"body": "new", "d": 1}), (), {"d": 1}),
        (
            (("a", "b"), {"body": "new"}),
            ("a", "b"),
            {"body": "twice, so the call will fail as it would have"},
        ),
    ],
)
def test_an_argument_is_replaced_the_way_it_was_passed(
    expected: object, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """Everything else stays as it was, and the caller's dict is not written to."""
    before = dict(kwargs)
    position = 0 if len(args) == 1 and not kwargs else 1

    assert expected == replaced(args, kwargs, position, "body", "new")
    assert before == kwargs


def test_a_proxy_passes_for_what_it_stands_in_for(client: type[Base]) -> None:
    """Type checks, attributes and methods are those of the object behind it, but for what is overridden."""

    class Loud(Proxy):
        def send(self, body: str) -> str:
            """Send in capitals."""
            sent: str = self.__wrapped__.send(body.upper())
            return sent

    proxy = Loud(client())

    assert isinstance(proxy, client)
    assert ["sent X", "parsed x"] == [proxy.send("x"), proxy.parsed("x")]
