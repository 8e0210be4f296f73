"""Parts that a user plugs onto a method, beside those that its paper fills the slots with.

    LoRA(r=8).with_parts(init=Olora(), procedure=[Perturbation(rho=0.1), Chain(rounds=3)])

`layer`, `init` and `optimizer` have one answer: a slot that the method fills is not filled again.
Penalties add up, and several procedures share their slot (:mod:`.together`), the plugged ones
before the method's own. A part that works on a layer of its own (a chain on stacked factors) brings
it along where the method has PEFT's plain one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rankwright.core.composite import combine_procedures, sum_penalties
from rankwright.core.fields import check_types
from rankwright.core.part_registry import SINGLE, SLOTS, get_part, part_name
from rankwright.core.slots import Init, Layer, OptimizerPart, Part, Penalty, Procedure
from rankwright.errors import MethodError

if TYPE_CHECKING:
    from rankwright.core.slots import Slots


@dataclass(frozen=True, kw_only=True)
class PluggedParts:
    """What was plugged onto a method, by slot; made by `Method.with_parts`."""

    layer: Layer | None = None
    init: Init | None = None
    optimizer: OptimizerPart | None = None
    penalty: tuple[Penalty, ...] = ()
    procedure: tuple[Procedure, ...] = ()

    def __iter__(self) -> Iterator[tuple[str, Part]]:
        """(slot, part) of every part."""
        for slot in SLOTS:
            for part in _as_tuple(getattr(self, slot)):
                yield slot, part

    def __repr__(self) -> str:
        plugged = (f"{slot}={getattr(self, slot)!r}" for slot in SLOTS if getattr(self, slot))
        return f"PluggedParts({', '.join(plugged)})"

    def described(self) -> dict[str, list[dict[str, Any]]]:
        """By slot the name and the fields of every part; `part_from` is its inverse."""
        described: dict[str, list[dict[str, Any]]] = {}
        for slot, part in self:
            described.setdefault(slot, []).append({"name": part_name(part), **fields_of(part)})
        return described

    def plug(self, **parts: Any) -> PluggedParts:
        """These and more; see `Method.with_parts`.

        Raises:
            MethodError: There is no such slot, a part belongs to another one, or a slot with one
                answer has it already.
        """
        return dataclasses.replace(
            self, **{slot: self._added(slot, part) for slot, part in parts.items()}
        )

    def _added(self, slot: str, given: Any) -> Any:
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
        if slot not in SINGLE:
            return before + more
        if len(before + more) > 1:
            raise MethodError(
                f"{slot}: {' and '.join(map(part_name, before + more))} would both fill it; it "
                "takes one part"
            )
        return next(iter(before + more), None)

    def into(self, slots: Slots, name: str) -> Slots:
        """A method's slots with these parts in them.

        Args:
            slots: What the method fills by itself.
            name: Name of the method, for messages.

        Raises:
            MethodError: Two parts would answer one question or need different layers, or one of
                them refuses the others.
        """
        filled = dataclasses.replace(
            slots,
            **{slot: self._one(slot, slots, name) for slot in SINGLE},
            penalty=sum_penalties(self._several("penalty", slots.penalty, name)),
            procedure=combine_procedures(self._several("procedure", slots.procedure, name)),
        )
        filled = dataclasses.replace(filled, layer=_layer_for(filled, name))
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
    """The fields of a part that differ from their defaults."""
    values = {}
    for field in dataclasses.fields(part):
        value, default = getattr(part, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if value != default:
            values[field.name] = value
    return values


def part_from(slot: str, described: Mapping[str, Any]) -> Part:
    """A part from its name and fields, as `PluggedParts.described` gives them.

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
    """The layer that all parts can work on."""
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
