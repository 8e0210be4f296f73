"""Registry of the parts that can be plugged onto any method, by slot and name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from rankwright.core.slots import SLOT_NAMES, Init, Layer, OptimizerPart, Part, Penalty, Procedure
from rankwright.errors import MethodError

SLOTS: dict[str, type[Part]] = dict(
    zip(SLOT_NAMES, (Layer, Init, OptimizerPart, Penalty, Procedure), strict=True)
)
"""Base class of the parts of each slot that takes plugged parts."""

SINGLE_PART_SLOTS = ("layer", "init", "optimizer")
"""Slots that hold one part."""

_PARTS: dict[str, dict[str, type[Part]]] = {slot: {} for slot in SLOTS}

P = TypeVar("P", bound=type[Part])


def register_part(name: str) -> Callable[[P], P]:
    """Register a part under a name; a class decorator, to be placed above `@dataclass`.

    The base class determines the slot, and the first line of the docstring is the summary.

    Args:
        name: Name on the command line; unique within the slot.

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
    """Return the registered parts of a slot by name, sorted.

    Raises:
        MethodError: There is no such slot.
    """
    if slot not in SLOTS:
        raise MethodError(f"there is no slot {slot!r}; expected one of {', '.join(SLOTS)}")
    return dict(sorted(_PARTS[slot].items()))


def get_part(slot: str, name: str) -> type[Part]:
    """Return the part class called `name`, or `package.module:Class` for one without a name.

    Raises:
        MethodError: There is no such part, or its module cannot be imported.
    """
    known = available_parts(slot)
    found = known.get(name) or import_class(name, SLOTS[slot], slot)
    if found is None:
        raise MethodError(
            f"unknown {slot} {name!r}; expected one of {', '.join(known) or 'none yet'}, or "
            "package.module:Class for one of your own"
        )
    return found


def slot_of(cls: type[Part]) -> str:
    """Return the slot that a part class belongs to."""
    return next(slot for slot, base in SLOTS.items() if issubclass(cls, base))


def part_name(part: Part) -> str:
    """Return the name by which `get_part` finds the part's class."""
    cls = type(part)
    known = {found: name for name, found in _PARTS[slot_of(cls)].items()}
    return known.get(cls) or f"{cls.__module__}:{cls.__qualname__}"


def summary(cls: type[Part]) -> str:
    """Return the first line of a part's docstring."""
    return (cls.__doc__ or "").strip().partition("\n")[0]


def import_class(name: str, base: type[Any], kind: str) -> Any | None:
    """Import the class `package.module:Class`; None if it is not a subclass of `base`.

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
