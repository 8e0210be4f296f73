"""Parts that a user plugs onto a method, in addition to those of its paper.

    LoRA(r=8).with_parts(init=Olora(), procedure=[Perturbation(rho=0.1), Chain(rounds=3)])

The slots `layer`, `init` and `optimizer` hold one part: where the method has its own, another is
refused. Penalties add up, and several procedures share their slot (:mod:`.composite`), plugged ones
first. A part that needs a layer of its own, as a chain needs stacked factors, replaces PEFT's plain
layer by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rankwright.core.composite import combine_procedures, sum_penalties
from rankwright.core.fields import check_types
from rankwright.core.part_registry import SINGLE_PART_SLOTS, SLOTS, get_part, part_name
from rankwright.core.slots import Init, Layer, OptimizerPart, Part, Penalty, Procedure
from rankwright.errors import MethodError

if TYPE_CHECKING:
    from rankwright.core.slots import Slots


@dataclass(frozen=True, kw_only=True)
class PluggedParts:
    """The parts plugged onto a method, by slot; see `Method.with_parts`."""

    layer: Layer | None = None
    init: Init | None = None
    optimizer: OptimizerPart | None = None
    penalty: tuple[Penalty, ...] = ()
    procedure: tuple[Procedure, ...] = ()

    def __iter__(self) -> Iterator[tuple[str, Part]]:
        """Yield (slot, part) for every part."""
        for slot in SLOTS:
            for part in _as_tuple(getattr(self, slot)):
                yield slot, part

    def __repr__(self) -> str:
        plugged = (f"{slot}={getattr(self, slot)!r}" for slot in SLOTS if getattr(self, slot))
        return f"PluggedParts({', '.join(plugged)})"

    def describe(self) -> dict[str, list[dict[str, Any]]]:
        """Return name and fields of every part by slot; `build_part` is the inverse."""
        parts: dict[str, list[dict[str, Any]]] = {}
        for slot, part in self:
            parts.setdefault(slot, []).append({"name": part_name(part), **fields_of(part)})
        return parts

    def plug(self, **parts: Any) -> PluggedParts:
        """Add parts; see `Method.with_parts`.

        Raises:
            MethodError: There is no such slot, a part belongs to another one, or a slot that holds
                one part is taken.
        """
        return dataclasses.replace(
            self, **{slot: self._add(slot, part) for slot, part in parts.items()}
        )

    def _add(self, slot: str, given: Any) -> Any:
        if slot not in SLOTS:
            raise MethodError(f"there is no slot {slot!r}; expected one of {', '.join(SLOTS)}")
        before, more = _as_tuple(getattr(self, slot)), _as_tuple(given)
        for part in more:
            if not (isinstance(part, SLOTS[slot]) and dataclasses.is_dataclass(part)):
                raise MethodError(
                    f"{slot} = {part!r}: expected a dataclass over {SLOTS[slot].__name__}; "
                    "`rankwright parts` lists those with a name"
                )
        for part in more:
            check_types(part)
        if slot not in SINGLE_PART_SLOTS:
            return before + more
        if len(before + more) > 1:
            raise MethodError(
                f"{slot}: {' and '.join(map(part_name, before + more))} would both fill it; it "
                "takes one part"
            )
        return next(iter(before + more), None)

    def into(self, slots: Slots, name: str) -> Slots:
        """Fill a method's slots with these parts.

        Args:
            slots: The method's own parts.
            name: Name of the method, for messages.

        Raises:
            MethodError: Two parts need the same slot or different layers, or one refuses another.
        """
        filled = dataclasses.replace(
            slots,
            **{slot: self._one(slot, slots, name) for slot in SINGLE_PART_SLOTS},
            penalty=sum_penalties(self._several("penalty", slots.penalty, name)),
            procedure=combine_procedures(self._several("procedure", slots.procedure, name)),
        )
        filled = dataclasses.replace(filled, layer=_layer_for(filled, name))
        if type(filled.layer) is not type(slots.layer) and (export := filled.layer.export()):
            filled = dataclasses.replace(filled, export=export)
        for part in filled.parts():
            part.check(filled)
        return filled

    def _one(self, slot: str, slots: Slots, name: str) -> Any:
        own, plugged = getattr(slots, slot), getattr(self, slot)
        if plugged is None:
            return own
        if own is not None and type(own) is not Layer:
            raise MethodError(
                f"{name} fills the slot {slot} with {part_name(own)}, so "
                f"{part_name(plugged)} has no place there; plug it onto a method that leaves the "
                "slot open, such as lora"
            )
        return plugged

    def _several(self, slot: str, own: Part | None, name: str) -> tuple[Any, ...]:
        parts = (*getattr(self, slot), *(own.members() if own is not None else ()))
        for number, part in enumerate(parts):
            if type(part) in map(type, parts[:number]):
                raise MethodError(
                    f"{slot}: {part_name(part)} is there twice; {name} may have it already: "
                    "set its fields instead"
                )
        return parts


def fields_of(part: Any) -> dict[str, Any]:
    """Return the fields of a part that differ from their defaults."""
    values = {}
    for field in dataclasses.fields(part):
        value, default = getattr(part, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if value != default:
            values[field.name] = value
    return values


def build_part(slot: str, described: Mapping[str, Any]) -> Part:
    """Build a part from its name and fields, as `PluggedParts.describe` returns them.

    Raises:
        MethodError: There is no such part, it has no such field, or a value is refused.
    """
    cls = get_part(slot, described["name"])
    fields = {name: value for name, value in described.items() if name != "name"}
    try:
        return cls(**fields)
    except TypeError as error:
        raise MethodError(f"{slot} {described['name']!r} with {fields}: {error}") from error


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _layer_for(slots: Slots, name: str) -> Layer:
    """Return the layer that all parts can work on."""
    layer = slots.layer
    for part in slots.parts():
        needed = part.layer()
        if needed is None or type(needed) is type(layer):
            continue
        if type(layer) is not Layer:
            raise MethodError(
                f"{part_name(part)} works on the layer {part_name(needed)}, and {name} has "
                f"{part_name(layer)}; plug it onto a method with PEFT's plain layer, such as lora"
            )
        layer = needed
    return layer
