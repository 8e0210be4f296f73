"""Convert methods to plain values and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankwright.core.method import Method
from rankwright.core.method_registry import get_method
from rankwright.core.plugged import build_part


def build_method(
    method: Mapping[str, Any], parts: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Method:
    """Build a method with plugged parts from names and fields.

    Args:
        method: `name` and hyperparameters.
        parts: Slot -> `name` and fields of each part.

    Raises:
        MethodError: A method or part is unknown, a field is refused, or the parts do not go
            together.
    """
    fields = {name: value for name, value in method.items() if name != "name"}
    made: dict[str, Any] = {
        slot: [build_part(slot, part) for part in items] for slot, items in parts.items()
    }
    return get_method(method["name"])(**fields).with_parts(**made)


def describe_method(method: Method) -> dict[str, Any]:
    """Return hyperparameters by name and plugged parts by slot, as JSON values."""
    values: dict[str, Any] = plain({**method.hyperparameters(), **method.plugged.describe()})
    return values


def registered_name(cls: type[Method]) -> str:
    """Return the name by which another process finds a method class.

    It is the registered name of rankwright's own methods, and `package.module:Class` of others.
    """
    own = cls.__module__.startswith("rankwright.methods.")
    return cls.name if own else f"{cls.__module__}:{cls.__qualname__}"


def plain(value: Any) -> Any:
    """Convert tuples to lists at every depth, as YAML and JSON store them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
