"""Registry of methods by name."""

from __future__ import annotations

from typing import TypeVar

from rankwright.core.method import Method
from rankwright.core.part_registry import import_class
from rankwright.errors import MethodError, did_you_mean

_METHODS: dict[str, type[Method]] = {}

M = TypeVar("M", bound=type[Method])


def register_method(cls: M) -> M:
    """Register a method under its `name`; a class decorator.

    Raises:
        MethodError: The name is taken by another class.
    """
    taken = _METHODS.get(cls.name)
    if taken is not None and taken.__qualname__ != cls.__qualname__:
        raise MethodError(f"the method name {cls.name!r} is taken by {taken.__qualname__}")
    _METHODS[cls.name] = cls
    return cls


def available_methods() -> dict[str, type[Method]]:
    """Return all registered methods by name, sorted."""
    return dict(sorted(_METHODS.items()))


def get_method(name: str) -> type[Method]:
    """Return the method class called `name`, or `package.module:Class` if not registered.

    Raises:
        MethodError: There is no such method, or its module cannot be import_class.
    """
    if name in _METHODS:
        return _METHODS[name]
    found: type[Method] | None = import_class(name, Method, "method")
    if found is not None:
        return found
    raise MethodError(
        f"unknown method {name!r}; expected one of {', '.join(available_methods())}, or "
        f"package.module:Class for one of your own{did_you_mean(name, available_methods())}"
    )
