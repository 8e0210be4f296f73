"""Fields that a method takes from its parts: declared once, with default, check and meaning.

    class SoRA(Method):
        xi: float = from_part(Sparsify)                    # Sparsify.xi
        l1_weight: float = from_part(L1, "weight", default=0.0)

        def slots(self) -> Slots:
            return Slots(procedure=Sparsify.from_fields(self), ...)

The default is the part's unless the method gives another, and the check is the part's. So is the
meaning, to which the method's docstring may add something (what the paper has, say): `cls.__doc__`
has both from the moment the class exists, and with it `help(SoRA)`, `rankwright methods show sora`
and `rankwright train --method sora --help`.
"""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import docstring_parser

from rankwright.core.errors import MethodError, did_you_mean
from rankwright.core.part import Part

_WIDTH = 100


@dataclass(frozen=True)
class Origin:
    """Where a method's field comes from.

    Attributes:
        part: The part's class.
        name: The field's name there.
        default: The method's own default; MISSING for the part's.
    """

    part: type[Part]
    name: str
    default: Any

    @property
    def field(self) -> dataclasses.Field[Any]:
        """The part's field.

        Raises:
            MethodError: It has none of this name.
        """
        fields = {field.name: field for field in dataclasses.fields(self.part)}  # type: ignore[arg-type]
        if self.name not in fields:
            raise MethodError(
                f"{self.part.__name__} has no field {self.name!r}{did_you_mean(self.name, fields)}"
            )
        return fields[self.name]


def from_part(part: type[Part], name: str = "", *, default: Any = dataclasses.MISSING) -> Any:
    """A method's field that is a field of one of its parts; `Part.from_fields` hands it over.

    Args:
        part: The part's class.
        name: The field's name in the part, where it is another.
        default: The method's default, where it is not the part's.
    """
    return Origin(part, name, default)


def taken_fields(cls: type[Any]) -> dict[str, Origin]:
    """Give a class that `dataclass` has not seen yet its `from_part` defaults and their meaning.

    Args:
        cls: The method's class; changed in place.

    Returns:
        Name of the method's field -> where it comes from.

    Raises:
        MethodError: A part has no such field.
    """
    origins = {
        name: dataclasses.replace(value, name=value.name or name)
        for name, value in vars(cls).items()
        if isinstance(value, Origin)
    }
    for name, origin in origins.items():
        setattr(cls, name, _default(origin))
    if origins:
        cls.__doc__ = _documented(cls, origins)
    return origins


def _default(origin: Origin) -> Any:
    if origin.default is not dataclasses.MISSING:
        return origin.default
    field = origin.field
    return dataclasses.field(default=field.default, default_factory=field.default_factory)


def _documented(cls: type[Any], origins: Mapping[str, Origin]) -> str:
    """The class's docstring with the meaning of every field, the part's before the class's own."""
    text = inspect.cleandoc(cls.__doc__ or "")
    head, own = text.partition("\nAttributes:\n")[0].rstrip(), meanings(cls)
    lines = [head, "", "Attributes:"]
    for name in dict.fromkeys((*own, *origins)):
        origin = origins.get(name)
        of_part = meanings(origin.part).get(origin.name, "") if origin else ""
        meaning = f"{name}: {of_part} {own.get(name, '')}".rstrip()
        lines += textwrap.wrap(
            " ".join(meaning.split()), _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8
        )
    return "\n".join(lines) + "\n"


def meanings(cls: type[Any]) -> dict[str, str]:
    """What the docstring of a class says of each of its fields, on one line."""
    described = docstring_parser.parse(cls.__doc__ or "").params
    return {item.arg_name: " ".join((item.description or "").split()) for item in described}
