"""Method fields that come from a part, where their default, check and documentation are.

    class SoRA(Method):
        xi: float = from_part(Sparsify)                    # Sparsify.xi
        l1_weight: float = from_part(L1, "weight", default=0.0)

        def slots(self) -> Slots:
            return Slots(procedure=Sparsify.from_fields(self), ...)

The default is the part's unless the method gives another; the check is always the part's. The
description is the part's too, and the method's docstring may add to it (the paper's value, for
example): `cls.__doc__` joins both when the class is created, so `help(SoRA)`, `rankwright methods
show sora` and `rankwright train --method sora --help` show them.
"""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import docstring_parser

from rankwright.errors import FieldError, MethodError, did_you_mean

_WIDTH = 100

P = TypeVar("P")


@dataclass(frozen=True)
class Origin:
    """The field of a part that a method's field stands for.

    Attributes:
        part: The part's class.
        name: The field's name in the part.
        default: The method's own default; MISSING for the part's.
    """

    part: type[Any]
    name: str
    default: Any

    @property
    def field(self) -> dataclasses.Field[Any]:
        """The dataclass field of the part.

        Raises:
            MethodError: The part has no such field.
        """
        fields = {field.name: field for field in dataclasses.fields(self.part)}
        if self.name not in fields:
            raise MethodError(
                f"{self.part.__name__} has no field {self.name!r}{did_you_mean(self.name, fields)}"
            )
        return fields[self.name]


class TakesFields(Protocol):
    """The interface of a method that `Part.from_fields` needs.

    Attributes:
        origins: Fields that come from parts, by the method's name for them.
    """

    origins: ClassVar[dict[str, Origin]]


def from_part(part: type[Any], name: str = "", *, default: Any = dataclasses.MISSING) -> Any:
    """Declare a field of a method that `Part.from_fields` passes to a part.

    Args:
        part: The part's class.
        name: The field's name in the part, if different.
        default: The default in the method, if different.
    """
    return Origin(part, name, default)


def build_from_fields(
    cls: type[P], method: TakesFields, without: Iterable[str], others: Mapping[str, Any]
) -> P:
    """Build a part; see `Part.from_fields`."""
    taken = {o.name: name for name, o in method.origins.items() if o.part is cls}
    _check_coverage(method, cls, [*taken, *without, *others])
    try:
        return cls(**{name: getattr(method, own) for name, own in taken.items()}, **others)
    except FieldError as error:
        if error.name not in taken:
            raise
        owner, own = type(method).__name__, taken[error.name]
        raise FieldError(owner, own, error.value, error.expected) from error


def _check_coverage(method: TakesFields, cls: type[Any], given: list[str]) -> None:
    """Refuse a part with a field that the method omits, gives twice or misspells."""
    fields = dataclasses.fields(cls)
    names = [field.name for field in fields]
    wrong = {
        "missing": [f.name for f in fields if f.repr and f.name not in given],
        "given twice": [name for name in names if given.count(name) > 1],
        "unknown": [name for name in given if name not in names],
    }
    for what, found in wrong.items():
        if found:
            raise MethodError(
                f"{type(method).__name__} and its part {cls.__name__}: {what}: {', '.join(found)}; "
                "expected each field of the part once: as a field of the method (from_part), with "
                "a value in from_fields, or in without="
            )


def taken_fields(cls: type[Any]) -> dict[str, Origin]:
    """Replace the `from_part` declarations of a class by defaults and document them.

    Args:
        cls: The method's class, before `dataclass` processes it; modified in place.

    Returns:
        The part's field by name of the method's field.

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
    """Return the docstring of a class with the part's description before the class's own."""
    text = inspect.cleandoc(cls.__doc__ or "")
    head, own = text.partition("\nAttributes:\n")[0].rstrip(), meanings(cls)
    lines = [head, "", "Attributes:"]
    for name in dict.fromkeys((*own, *origins)):
        origin = origins.get(name)
        of_part = inherited_meanings(origin.part).get(origin.name, "") if origin else ""
        meaning = f"{name}: {of_part} {own.get(name, '')}".rstrip()
        lines += textwrap.wrap(
            " ".join(meaning.split()), _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8
        )
    return "\n".join(lines) + "\n"


def meanings(cls: type[Any]) -> dict[str, str]:
    """Return the descriptions of fields in a class's docstring by name, each on one line."""
    described = docstring_parser.parse(cls.__doc__ or "").params
    return {item.arg_name: " ".join((item.description or "").split()) for item in described}


def inherited_meanings(cls: type[Any]) -> dict[str, str]:
    """Return the descriptions of all fields of a class, those of its base classes included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= meanings(base)
    return found
