"""Options of plugged parts: `--init pissa --init.niter 4 --procedure flat,chain`.

The option named after a slot lists the parts to plug into it. A field of a part is written
`--SLOT.FIELD`, or `--SLOT.PART.FIELD` if several parts of the slot have it. In a YAML file a slot
holds a name, a mapping with `name` and fields, or a list of these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from rankwright.core.part_registry import SLOTS, get_part
from rankwright.core.slots import Part
from rankwright.errors import MethodError
from rankwright.yaml_loader import NumberLoader


@dataclass(frozen=True)
class Plug:
    """A part that the command line or the file names.

    Attributes:
        slot: The slot that it fills.
        name: Its name, or `package.module:Class`.
        cls: Its class.
    """

    slot: str
    name: str
    cls: type[Part]

    @property
    def prefix(self) -> str:
        """The prefix of its options."""
        return f"{self.slot}.{self.name.rpartition(':')[2]}"

    @property
    def skipped(self) -> set[str]:
        """Fields that only Python can set."""
        fields: Iterable[dataclasses.Field[Any]] = dataclasses.fields(self.cls)  # type: ignore[arg-type]
        return {field.name for field in fields if not field.repr}

    def has(self, field: str) -> bool:
        """Whether an option can set this field."""
        return field in self.cls.__dataclass_fields__.keys() - self.skipped  # type: ignore[attr-defined]


def find_plugs(named: Mapping[str, Sequence[str]]) -> list[Plug]:
    """Return the parts with these names.

    Raises:
        MethodError: There is no such part, or options could not tell two of them apart.
    """
    plugs = [
        Plug(slot, name, get_part(slot, name)) for slot in SLOTS for name in named.get(slot, ())
    ]
    seen: dict[str, Plug] = {}
    for plug in plugs:
        other = seen.setdefault(plug.prefix, plug)
        if other is not plug:
            raise MethodError(
                f"--{plug.slot} names {other.name} and {plug.name}, whose options are both "
                f"--{plug.prefix}.FIELD; expected parts of different names: leave one out"
            )
    return plugs


def split_names(slot: str, text: str) -> list[str]:
    """Return the names in `flat`, `flat,chain` or `[flat, chain]`; none for `null`.

    Raises:
        MethodError: The text is none of these.
    """
    try:
        value = yaml.load(text, Loader=NumberLoader)
    except yaml.YAMLError as error:
        raise MethodError(f"--{slot} {text}: expected a name, or several with commas") from error
    names = value if isinstance(value, list) else str(value or "").split(",")
    return [str(name).strip() for name in names if str(name).strip()]


def read_slot(slot: str, value: Any) -> tuple[list[str], dict[str, Any]]:
    """Return names and fields (as options by name) of the parts in a slot of the YAML file.

    Raises:
        MethodError: A part has no name.
    """
    names: list[str] = []
    options: dict[str, Any] = {}
    for item in value if isinstance(value, list) else [value] if value else []:
        fields = dict(item) if isinstance(item, Mapping) else {"name": item}
        if "name" not in fields:
            raise MethodError(
                f"{slot}: {item} has no name; expected the name of a part, and its fields"
            )
        names.append(str(fields.pop("name")))
        key = names[-1].rpartition(":")[2]
        options |= {f"{slot}.{key}.{field}": value for field, value in fields.items()}
    return names, options


def full_name(argument: str, plugs: Sequence[Plug]) -> str:
    """Return `--procedure.rho=1` as `--procedure.flat.rho=1` if `flat` is the part with a `rho`.

    Raises:
        MethodError: Several parts of the slot have the field.
    """
    flag, equals, value = argument.partition("=")
    slot, _, field = flag.removeprefix("--").partition(".")
    if not flag.startswith("--") or slot not in SLOTS or field == "name":
        return argument
    owners = [f"--{plug.prefix}.{field}" for plug in plugs if plug.slot == slot and plug.has(field)]
    if len(owners) > 1:
        raise MethodError(f"{flag}: several parts have it; write {' or '.join(owners)}")
    return f"{owners[0]}{equals}{value}" if owners else argument


def describe_parts(
    values: Mapping[str, Any], plugs: Sequence[Plug]
) -> dict[str, list[dict[str, Any]]]:
    """Return name and fields of every part by slot, from the parsed options."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for plug in plugs:
        fields = (values.get(plug.slot) or {}).get(plug.prefix.partition(".")[2]) or {}
        parts.setdefault(plug.slot, []).append({"name": plug.name, **fields})
    return parts
