"""Replacing other people's methods so that they can be put back: the only importer of wrapt.

A patch that cannot be taken out, because somebody wrapped over it, is switched off where it stands.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar, Token
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from wrapt import FunctionWrapper, ObjectProxy

# Any: what is wrapped, and so what it takes and gives, is as various as the clients; each wrapper narrows it.
Wrapper: TypeAlias = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]

if TYPE_CHECKING:
    Proxy: TypeAlias = ObjectProxy[Any]  # Any: a stand-in for whatever it stands in for; wrapt 1 has no []
else:
    Proxy = ObjectProxy

_scope: ContextVar["passthrough | None"] = ContextVar("otel_waybill_passthrough", default=None)


class passthrough:  # noqa: N801 - reads as a state at the place of use, like contextlib.suppress
    """Make every patch of this package call straight through inside the block.

    For our own publishes and acks, and for the calls that a patched method makes to another patched one.
    It covers the running thread or task and what is called or awaited from there. A task started inside
    copies the context and may live as long as the connection, so leaving the block ends it there as well.
    Use a fresh one for each block.
    """

    __slots__ = ("_open", "_token")

    _token: Token["passthrough | None"]

    def __init__(self) -> None:
        self._open = False

    def __enter__(self) -> None:
        self._open = True
        self._token = _scope.set(self)

    def __exit__(self, *_: object) -> None:
        self._open = False
        _scope.reset(self._token)

    @staticmethod
    def active() -> bool:
        """Return whether patches call straight through here and now."""
        scope = _scope.get()
        return scope is not None and scope._open  # noqa: SLF001 - one of us


class PatchSet:
    """A ledger of replaced attributes.

    Not locked: instrumenting and uninstrumenting at the same time is for the caller to rule out.
    """

    def __init__(self) -> None:
        self._patches: list[_Patch] = []

    def add(self, owner: type | ModuleType, name: str, wrapper: Wrapper) -> Self:
        """Enter one replacement; nothing happens before ``apply``.

        Args:
            owner: the class or module whose attribute is replaced; a class may merely inherit it.
            name: the attribute.
            wrapper: called as ``wrapper(wrapped, instance, args, kwargs)`` instead of it, with *wrapped*
                already bound; not called while ``passthrough`` is active.
        """
        self._patches.append(_Patch(owner, name, wrapper))
        return self

    def apply(self) -> None:
        """Put every wrapper in its place, once however often this is called: all of them or none.

        Raises:
            AttributeError: an owner does not have the attribute.
        """
        try:
            for patch in self._patches:
                patch.install()
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Put back what was there, the identical object, or switch off a wrapper that others wrapped over."""
        for patch in reversed(self._patches):
            patch.remove()


def argument(
    args: tuple[object, ...], kwargs: Mapping[str, object], position: int, name: str, default: object = None
) -> Any:  # noqa: ANN401 - only the wrapper knows what its client takes there
    """Return the argument that was passed by *name* or at *position* (from 0), else *default*."""
    if name in kwargs:
        return kwargs[name]
    return args[position] if position < len(args) else default


def replaced(
    args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str, value: object
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return *args* and *kwargs* with another *value* for one argument, passed in the way it was passed.

    An argument that was not passed is added by name. What was given is not changed.
    """
    if name not in kwargs and position < len(args):
        return (*args[:position], value, *args[position + 1 :]), kwargs
    return args, {**kwargs, name: value}


class _Switch:
    """What wrapt asks before each call; one for each wrapper ever installed."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on = True

    def __call__(self) -> bool:
        return self.on and not passthrough.active()


class _Patch:
    """One line of the ledger."""

    def __init__(self, owner: type | ModuleType, name: str, wrapper: Wrapper) -> None:
        self._owner = owner
        self._name = name
        self._wrapper = wrapper
        self._switch = _Switch()
        self._installed: object = None
        self._original: object = None
        self._inherited = False

    def install(self) -> None:
        # Static: reading through the class would bind a class or static method before it is wrapped.
        current = inspect.getattr_static(self._owner, self._name)
        if self._installed is not None and any(link is self._installed for link in _chain(current)):
            self._switch.on = True
            return
        # Whether the old wrapper is gone, or still called by one that does not say what it wraps, is
        # unknowable. Off for good, it cannot count a call twice.
        self._switch.on = False
        self._switch = _Switch()
        self._original = current
        self._inherited = self._name not in vars(self._owner)
        # Any: wrapt describes static callables; a descriptor out of a class is none yet.
        wrapped: Any = current
        self._installed = FunctionWrapper(wrapped, self._wrapper, enabled=self._switch)
        setattr(self._owner, self._name, self._installed)

    def remove(self) -> None:
        self._switch.on = False
        if self._installed is None or vars(self._owner).get(self._name) is not self._installed:
            return
        if self._inherited:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._original)
        self._installed = self._original = None


def _chain(link: object) -> Iterator[object]:
    """Yield *link* and what it says it wraps, outermost first; bounded, because others may lie."""
    for _ in range(100):
        yield link
        link = getattr(link, "__wrapped__", None)
        if link is None:
            return
