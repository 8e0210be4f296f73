"""Parts by slot and name: what a user may plug onto any method."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from rankwright.core.slots import SLOT_NAMES, Init, Layer, OptimizerPart, Part, Penalty, Procedure
from rankwright.errors import MethodError

SLOTS: dict[str, type[Part]] = dict(
    zip(SLOT_NAMES, (Layer, Init, OptimizerPart, Penalty, Procedure), strict=True)
)
"""The slots that take plugged parts, in the order in which a method is put together."""

SINGLE = ("layer", "init", "optimizer")
"""Slots that hold one part."""

_PARTS: dict[str, dict[str, type[Part]]] = {slot: {} for slot in SLOTS}

P = TypeVar("P", bound=type[Part])


def register_part(name: str) -> Callable[[P], P]:
    """Make a part known under a name; a class decorator, put above `@dataclass`.

    The slot is that of its base class, its summary the first line of its docstring.

    Args:
        name: What a user types; unique within the slot.

    Raises:
        MethodError: The name is taken by another class.
    """

    def register(cls: P) -> P:
        known = _PARTS[slot_of(cls)]
        taken = known.get(name)
        if taken is not None and taken.__qualname__ != cls.__qualname__:
            raise MethodError(f"the {slot_of(cls)} {name!r} is taken by {taken.__qualname__}")
        known[name] = cls
        return cls

    return register


def available_parts(slot: str) -> dict[str, type[Part]]:
    """The parts of a slot by name, sorted.

    Raises:
        MethodError: There is no such slot.
    """
    if slot not in SLOTS:
        raise MethodError(f"there is no slot {slot!r}; expected one of {', '.join(SLOTS)}")
    return dict(sorted(_PARTS[slot].items()))


def get_part(slot: str, name: str) -> type[Part]:
    """The part called `name`, or `package.module:Class` for one that has no name.

    Raises:
        MethodError: There is no such part, or its module cannot be imported.
    """
    known = available_parts(slot)
    found = known.get(name) or imported(name, SLOTS[slot], slot)
    if found is None:
        raise MethodError(
            f"unknown {slot} {name!r}; expected one of {', '.join(known) or 'none yet'}, or "
            "package.module:Class for one of your own"
        )
    return found


def slot_of(cls: type[Part]) -> str:
    """The slot that a part's base class names."""
    return next(slot for slot, base in SLOTS.items() if issubclass(cls, base))


def part_name(part: Part) -> str:
    """The name that `get_part` finds a part's class by."""
    cls = type(part)
    known = {found: name for name, found in _PARTS[slot_of(cls)].items()}
    return known.get(cls) or f"{cls.__module__}:{cls.__qualname__}"


def summary(cls: type[Part]) -> str:
    """What a part does, in a line."""
    return (cls.__doc__ or "").strip().partition("\n")[0]


def imported(name: str, base: type[Any], kind: str) -> Any | None:
    """The class behind `package.module:Class`; None if that is no subclass of `base`.

    Raises:
        MethodError: The module cannot be imported.
    """
    module_name, _, class_name = name.partition(":")
    if not class_name:
        return None
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise MethodError(f"{kind} {name!r}: cannot import {module_name} ({error})") from error
    found = getattr(module, class_name, None)
    return found if isinstance(found, type) and issubclass(found, base) else None
