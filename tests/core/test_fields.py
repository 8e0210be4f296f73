"""Fields of a wrong type are refused where a method is made, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from rankwright.core.fields import check_types
from rankwright.core.method_registry import available_methods, get_method
from rankwright.core.slots import Procedure
from rankwright.errors import MethodError
from rankwright.methods import LoRA

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass
class Fields:
    count: int = 1
    share: float = 0.5
    on: bool = False
    name: str | None = None
    one_of: Literal["A", "B"] | None = "A"
    names: str | list[str] = "all"
    pair: tuple[float, float] | None = None
    ranks: dict[str, int] = field(default_factory=dict)
    hook: Callable[[int], float] | None = None
    anything: Any = None


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"share": 1, "pair": [0, 1.5], "name": "x", "one_of": None},
        {"share": np.float32(0.5), "names": ("a", "b"), "ranks": {"q": 2}},
        {"hook": float, "anything": object()},
    ],
)
def test_what_an_annotation_allows(given: dict[str, Any]) -> None:
    check_types(Fields(**given))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", 1.0, "an integer"),
        ("count", True, "an integer"),
        ("share", "0.5", "a number"),
        ("share", False, "a number"),
        ("on", "no", "True or False"),
        ("on", 1, "True or False"),
        ("name", 5, "a text or None"),
        ("one_of", "C", "A or B or None"),
        ("names", 5, "a text or a list, each a text"),
        ("names", ["a", 5], "a text or a list, each a text"),
        ("pair", (0, "1"), "a list, each a number or None"),
        ("ranks", [2], "a mapping from a text to an integer"),
        ("ranks", {"q": 2.5}, "a mapping from a text to an integer"),
        ("hook", 3, "Callable or None"),
    ],
)
def test_what_it_does_not(name: str, value: object, expected: str) -> None:
    with pytest.raises(MethodError) as error:
        check_types(Fields(**{name: value}))
    assert str(error.value) == f"Fields.{name} = {value!r}: expected {expected}"


def test_a_name_that_only_type_checkers_import_is_no_error() -> None:
    @dataclass
    class Late:
        when: Decimal
        count: int = 1

    check_types(Late(when=3))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", available_methods())
def test_every_method_checks(name: str) -> None:
    with pytest.raises(MethodError, match=r"lora_alpha = '16': expected a number$"):
        get_method(name)(lora_alpha="16")


def test_a_part_is_checked_where_it_is_plugged_in() -> None:
    @dataclass(frozen=True)
    class Shaken(Procedure):
        rho: float = 0.1

    with pytest.raises(MethodError, match=r"rho = '0\.1': expected a number"):
        LoRA().with_parts(procedure=Shaken(rho="0.1"))  # type: ignore[arg-type]
