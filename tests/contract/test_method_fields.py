"""A method's fields and those of its parts: said once, and none of them lost on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from method_table import METHODS
from rankwright.cli import main
from rankwright.core.method import Method
from rankwright.core.method_registry import available_methods
from rankwright.core.part_fields import from_part, meanings
from rankwright.core.slots import Slots
from rankwright.errors import FieldError, MethodError
from rankwright.methods import SoRA, XGBLoRA
from rankwright.procedures import Perturbation, Sparsify

SHARED = {field.name for field in dataclasses.fields(Method)}
OWN = [
    (name, field.name)
    for name in METHODS
    for field in dataclasses.fields(available_methods()[name])
    if field.name not in SHARED
]
VALUES = [None, True, False, 0, 1, 2, 3, 4, 16, 0.0, 0.25, 0.5, 2.0, (0.5, 0.5), (0.9, 0.5), [2, 1]]
NARROWER = {
    ("cola", "ranks"),
    ("rac_lora", "ranks"),  # a list, as YAML has it
    ("rac_lora", "frozen"),  # never None
    ("xgblora", "selection"),  # no function
}


def candidates(method: type[Method], field: str) -> list[Any]:
    hint = typing.get_type_hints(method)[field]
    unions = [hint, *typing.get_args(hint)]
    literals = [value for kind in unions for value in typing.get_args(kind) if kind is not hint]
    literals += typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return [*(v for v in literals if isinstance(v, str)), *VALUES]


def reaches(method: type[Method], field: str, **others: Any) -> bool:
    """Whether two values of a field, all else alike, make different parts."""
    seen: list[Slots] = []
    for value in candidates(method, field):
        try:
            seen.append(method(**{field: value}, **others).slots())
        except MethodError:
            continue
    return any(slots != seen[0] for slots in seen)


@pytest.mark.parametrize(("name", "field"), OWN)
def test_every_field_of_a_method_reaches_a_part(name: str, field: str) -> None:
    """By itself, or where one other field has another value (a warm-up of the policy "rewarm")."""
    method = available_methods()[name]
    beside = (
        {other: value}
        for owner, other in OWN
        if owner == name and other != field
        for value in candidates(method, other)
    )
    assert any(reaches(method, field, **others) for others in ({}, *beside))


@pytest.mark.parametrize(("name", "field"), OWN)
def test_a_field_of_a_part_has_its_type(name: str, field: str) -> None:
    origin = available_methods()[name].origins.get(field)
    if origin is not None and (name, field) not in NARROWER:
        of_part = typing.get_type_hints(origin.part)[origin.name]
        assert typing.get_type_hints(available_methods()[name])[field] == of_part


def test_nearly_every_field_is_a_parts() -> None:
    assert [own for own in OWN if own[1] not in available_methods()[own[0]].origins] == [
        ("adalora", "start_rank"),  # the rank that PEFT injects
        ("bilora", "parametrisation"),  # three fields choose the parts
        ("bilora", "scale_by_rank"),
        ("bilora", "near_binary"),
        ("dora_dynamic", "start_rank"),
        ("lora_fa", "projected"),  # chooses the part
    ]


@pytest.mark.parametrize(("name", "field"), OWN)
def test_every_field_has_a_meaning(name: str, field: str) -> None:
    assert len(meanings(available_methods()[name]).get(field, "").split()) > 2


def test_the_meaning_is_the_parts_and_then_the_methods() -> None:
    of_part = meanings(Sparsify)["xi"]
    assert meanings(SoRA)["xi"] == of_part
    whole = meanings(XGBLoRA)["layers_per_round"]
    assert whole.startswith("Layers trained in a round: a number")
    assert whole.endswith("1/3 (ours; paper: 11 is best for a 32-layer model).")


@pytest.mark.parametrize(
    "command", [["train", "--method", "sora", "--help"], ["methods", "show", "sora"]]
)
def test_the_command_line_says_it(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main(command)
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("Threshold on the gates after every optimizer", "0.0003", "Applied to the gates"):
        assert words in shown


# A method of one's own ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Noisy(Method):
    """LoRA under noise.

    Attributes:
        strength: Mine is larger.
    """

    name: ClassVar[str] = "noisy"
    summary: ClassVar[str] = "noise"
    reference: ClassVar[str] = "none"
    cost: ClassVar[str] = "none"

    strength: float = from_part(Perturbation, "rho", default=0.2)
    per_micro_batch: bool = from_part(Perturbation)
    same_on_all_processes: bool = from_part(Perturbation)

    def slots(self) -> Slots:
        return Slots(procedure=Perturbation.from_fields(self))


def test_defaults_and_names() -> None:
    assert (Noisy().strength, Noisy().per_micro_batch) == (0.2, False)
    assert Noisy(strength=0.3).slots().procedure == Perturbation(rho=0.3)
    assert meanings(Noisy)["strength"] == f"{meanings(Perturbation)['rho']} Mine is larger."


def test_an_error_has_the_name_that_was_given() -> None:
    with pytest.raises(FieldError, match=r"^Noisy\.strength = -1: expected a finite number"):
        Noisy(strength=-1)


def test_a_subclass_may_have_another_default() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Noisier(Noisy):
        strength: float = 0.9

    assert Noisier().slots().procedure == Perturbation(rho=0.9)


def test_a_field_that_is_misspelt_is_an_error() -> None:
    with pytest.raises(MethodError, match=r"Sparsify has no field 'x_i'.*; did you mean xi"):

        class Wrong(Method):
            x_i: float = from_part(Sparsify)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "its part Perturbation: missing: per_micro_batch, same_on_all_processes; expected"),
        ({"per_micro_batch": True}, ": missing: same_on_all_processes;"),
        ({"without": ["per_micro_batch", "same_on_all_processes", "rho"]}, ": given twice: rho;"),
        (
            {"without": ["per_micro_batch", "same_on_all_processes", "seed"]},
            ": unknown: seed; expected each field of the part once",
        ),
    ],
)
def test_a_field_that_is_forgotten_is_an_error(said: dict[str, Any], message: str) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Quiet(Method):
        rho: float = from_part(Perturbation)

        def slots(self) -> Slots:
            return Slots(procedure=Perturbation.from_fields(self, **said))

    with pytest.raises(MethodError, match=message):
        Quiet()


def test_a_field_may_be_left_out() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Quiet(Method):
        rho: float = from_part(Perturbation)

        def slots(self) -> Slots:
            part = Perturbation.from_fields(
                self, per_micro_batch=True, without=["same_on_all_processes"]
            )
            return Slots(procedure=part)

    assert Quiet().slots().procedure == Perturbation(per_micro_batch=True)
