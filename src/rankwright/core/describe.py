"""A method as plain values, and a method from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankwright.core.method import Method
from rankwright.core.parts import part_from
from rankwright.core.registry import get


def build_method(
    method: Mapping[str, Any], parts: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Method:
    """A method with parts plugged in, from names and fields.

    Args:
        method: `name` and hyperparameters.
        parts: By slot, `name` and fields of every part.

    Raises:
        MethodError: There is no such method or part, or they do not go together.
    """
    fields = {name: value for name, value in method.items() if name != "name"}
    made: dict[str, Any] = {
        slot: [part_from(slot, part) for part in described] for slot, described in parts.items()
    }
    return get(method["name"])(**fields).with_parts(**made)


def described(method: Method) -> dict[str, Any]:
    """Hyperparameters by name, and plugged parts by slot, as JSON has them."""
    values: dict[str, Any] = plain({**method.hyperparameters(), **method.plugged.described()})
    return values


def registered_name(cls: type[Method]) -> str:
    """The name under which another process finds a method: `package.module:Class` for a guest."""
    own = cls.__module__.startswith("rankwright.methods.")
    return cls.name if own else f"{cls.__module__}:{cls.__qualname__}"


def plain(value: Any) -> Any:
    """The same value with tuples as lists, as YAML and JSON have them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
