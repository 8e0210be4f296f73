"""PluggedParts by name, and methods put together from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import rankwright
from models import batch, rows_for, tiny_bert
from rankwright.core.composite import CompositeProcedure, PenaltySum
from rankwright.core.loop import Loop
from rankwright.core.part_registry import (
    SLOTS,
    available_parts,
    get_part,
    part_name,
    register_part,
    slot_of,
    summary,
)
from rankwright.core.plugged import PluggedParts, build_part
from rankwright.core.run import Run
from rankwright.core.schedule import Phase
from rankwright.core.slots import Init, Layer, Part, Penalty, Procedure, ProcedureState
from rankwright.errors import MethodError
from rankwright.inits import Olora, Pissa
from rankwright.layers import Dora, StackedLoRA
from rankwright.methods import COLA, BiDoRA, DoRA, FlatLoRA, LoRA, OLoRA, XGBLoRA
from rankwright.penalties import Gram
from rankwright.procedures import Bilevel, Chain, Perturbation

# Names -------------------------------------------------------------------------------------------


def test_every_named_part_is_found_in_its_slot_and_says_what_it_does() -> None:
    for slot, base in SLOTS.items():
        for name, cls in available_parts(slot).items():
            assert issubclass(cls, base)
            assert slot_of(cls) == slot
            assert get_part(slot, name) is cls
            assert cls() == cls(), "its name alone is enough: every field has a default"
            assert re.match(r"\S.*\.$", summary(cls)), f"{cls}: the first line is its summary"


def test_a_part_package_imports_all_its_named_parts() -> None:
    """What a package leaves out would have a name only after somebody imported its module."""
    for package in ("layers", "inits", "optimizers", "penalties", "procedures"):
        folder = Path(rankwright.__path__[0]) / package
        for module in folder.rglob("*.py"):
            named = re.findall(
                r"^@register_part\(.*?\n(?:@.*\n)*class (\w+)",
                module.read_text(encoding="utf-8"),
                flags=re.MULTILINE,
            )
            for cls in named:
                assert hasattr(import_module(f"rankwright.{package}"), cls), cls


def test_a_part_of_ones_own_is_named_by_its_module() -> None:
    assert part_name(Olora()) == "olora"
    assert part_name(Mine()) == f"{__name__}:Mine"
    assert get_part("penalty", f"{__name__}:Mine") is Mine
    assert build_part("penalty", {"name": f"{__name__}:Mine", "weight": 2.0}) == Mine(2.0)


@pytest.mark.parametrize(
    ("slot", "name", "message"),
    [
        (
            "init",
            "orola",
            "unknown init 'orola'; expected one of olora, orthonormal, pissa, random_factors, or "
            "package",
        ),
        ("init", "flat", "unknown init 'flat'"),
        ("init", f"{__name__}:Mine", "unknown init"),
        ("init", "nowhere:Mine", "cannot import nowhere"),
        ("inits", "olora", "no slot 'inits'; expected one of layer, init"),
    ],
)
def test_a_part_that_is_not_there(slot: str, name: str, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        get_part(slot, name)


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(MethodError, match="the init 'olora' is taken by Olora"):
        register_part("olora")(Pissa)


# Plugging ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mine(Penalty):
    """The sum of all A, as something to add."""

    weight: float = 1.0

    def __call__(self, run: Run) -> Any:
        return self.weight * sum(p.sum() for n, p in run.trainable().items() if "lora_A" in n)


def test_a_method_with_parts_is_a_frozen_value() -> None:
    method = LoRA(r=2).with_parts(init=Pissa(niter=4), procedure=[Perturbation(rho=0.1)])
    assert method == LoRA(r=2).with_parts(procedure=Perturbation(rho=0.1)).with_parts(
        init=Pissa(niter=4)
    )
    assert method != LoRA(r=2).with_parts(init=Pissa(niter=4), procedure=Perturbation(rho=0.2))
    assert hash(method.plugged) == hash(
        PluggedParts().plug(init=Pissa(niter=4), procedure=Perturbation(rho=0.1))
    )
    assert method.label == "lora+pissa+flat"
    assert LoRA().label == "lora"
    assert repr(method.plugged).startswith(
        "PluggedParts(init=Pissa(niter=4, seed=0), procedure=(Pert"
    )
    assert method.hyperparameters() == LoRA(r=2).hyperparameters()


def test_plugged_parts_fill_the_slots() -> None:
    slots = LoRA().with_parts(layer=Dora(), init=Olora(), penalty=Gram()).made_of()
    assert (slots.layer, slots.init, slots.penalty) == (Dora(), Olora(), Gram())
    assert slots.filled() == ["layer", "init", "penalty"]
    assert LoRA().with_parts().made_of() == LoRA().made_of() == LoRA().slots()


def test_a_chain_brings_its_layer_along() -> None:
    assert LoRA().with_parts(procedure=Chain()).made_of().layer == StackedLoRA()
    assert LoRA().with_parts(layer=StackedLoRA()).made_of().layer == StackedLoRA()


def test_penalties_add_up() -> None:
    method = BiDoRA(r=2).with_parts(penalty=[Mine(2.0)])
    assert method.made_of().penalty == PenaltySum((Mine(2.0), Gram()))
    method = LoRA(r=2).with_parts(penalty=[Mine(2.0), Gram(0.5)])
    run = Loop(method.apply(tiny_bert()), method, total_steps=1)
    total = PenaltySum((Mine(2.0), Gram(0.5)))(run)
    assert total.item() == pytest.approx((Mine(2.0)(run) + Gram(0.5)(run)).item())
    run.train_step(batch(rows_for(tiny_bert(), 4)))
    assert run.metrics["penalty"] == pytest.approx(total.item())


def test_procedures_stand_before_the_methods_own() -> None:
    own = XGBLoRA().slots().procedure
    slots = XGBLoRA().with_parts(procedure=Perturbation()).made_of()
    assert slots.procedure == CompositeProcedure((Perturbation(), own))
    assert slots.layer == StackedLoRA()


@pytest.mark.parametrize(
    ("method", "plugged", "message"),
    [
        (OLoRA(), {"init": Pissa()}, "olora fills the slot init with olora, so pissa has no place"),
        (DoRA(), {"layer": StackedLoRA()}, "dora fills the slot layer with dora"),
        (DoRA(), {"procedure": Chain()}, "chain works on the layer stacked, and dora has dora"),
        (COLA(), {"procedure": Chain()}, "chain is there twice; cola may have it already"),
        (FlatLoRA(), {"procedure": Perturbation(rho=0.1)}, "flat is there twice; flat_lora may"),
        (LoRA(), {"penalty": [Gram(), Gram(0.5)]}, "penalty: gram is there twice"),
        (LoRA(), {"init": [Olora(), Pissa()]}, "init: olora and pissa would both fill it"),
        (LoRA().with_parts(init=Olora()), {"init": Pissa()}, "olora and pissa would both fill it"),
        (
            LoRA(),
            {"init": Perturbation()},
            r"init = Perturb.*: expected a dataclass over Init",
        ),
        (LoRA(), {"inits": Olora()}, "there is no slot 'inits'; expected one of layer, init"),
    ],
)
def test_what_does_not_go_together(method: Any, plugged: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        method.with_parts(**plugged)


def test_parts_are_described_by_what_differs_from_the_defaults() -> None:
    method = LoRA().with_parts(init=Olora(), procedure=[Perturbation(rho=0.1), Chain(rounds=3)])
    described = method.plugged.describe()
    assert described == {
        "init": [{"name": "olora"}],
        "procedure": [{"name": "flat", "rho": 0.1}, {"name": "chain", "rounds": 3}],
    }
    again = {slot: [build_part(slot, item) for item in of] for slot, of in described.items()}
    assert LoRA().with_parts(**again) == method


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"rh": 1}, "procedure 'flat' with .*unexpected keyword"), ({"rho": -1}, r"\.rho = -1")],
)
def test_a_wrong_description(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        build_part("procedure", {"name": "flat", **fields})


# Several procedures in one slot ------------------------------------------------------------------

CALLS: list[str] = []


@dataclass(frozen=True)
class Scribe(Procedure):
    """Writes down what it hears."""

    name: str = "first"

    def start(self, run: Run) -> ProcedureState:
        return ScribeState(run, self)


@dataclass(frozen=True)
class Second(Scribe):
    """Another one, which also decides on the phases."""

    name: str = "second"

    def start(self, run: Run) -> ProcedureState:
        return SecondState(run, self)


class ScribeState(ProcedureState):
    needs = frozenset({"before_step"})

    def __init__(self, run: Run, scribe: Scribe) -> None:
        super().__init__(run)
        self.name = scribe.name
        self.heard = 0

    def _hear(self, event: str) -> None:
        self.heard += 1
        CALLS.append(f"{self.name} {event}")

    def begin(self) -> None:
        self._hear("begin")

    def before_step(self) -> None:
        self._hear("before_step")

    def after_backward(self) -> None:
        self._hear("after_backward")

    def after_step(self) -> None:
        self._hear("after_step")

    def end(self) -> None:
        self._hear("end")

    def state_dict(self) -> dict[str, Any]:
        return {"heard": self.heard}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.heard = state["heard"]


class SecondState(ScribeState):
    needs = frozenset({"after_step"})
    replays = True

    def phases(self, total_steps: int) -> list[Phase]:
        return [Phase("one", 1), Phase("rest", total_steps - 1)]


def both(total_steps: int = 2) -> Loop:
    method = LoRA(r=2).with_parts(procedure=[Scribe(), Second()])
    return Loop(method.apply(tiny_bert()), method, total_steps=total_steps)


def test_events_reach_procedures_in_their_order() -> None:
    CALLS.clear()
    run = both(1)
    run.train_step(batch(rows_for(tiny_bert(), 4)))
    run.finish()
    events = ("begin", "before_step", "after_backward", "after_step", "end")
    assert [f"{name} {event}" for event in events for name in ("first", "second")] == CALLS


def test_needs_and_flags_are_those_of_all() -> None:
    procedure = both().procedure
    assert procedure.needs == {"before_step", "after_step"}
    assert procedure.replays
    assert not procedure.restricts_rows
    assert [type(state) for state in procedure.members()] == [ScribeState, SecondState]


def test_the_one_that_has_an_answer_gives_it() -> None:
    assert [phase.name for phase in both().phases] == ["one", "rest"]


def test_states_are_kept_by_name() -> None:
    run = both()
    run.train_step(batch(rows_for(tiny_bert(), 4)))
    state = run.procedure.state_dict()
    assert state == {f"{__name__}:Scribe": {"heard": 4}, f"{__name__}:Second": {"heard": 4}}
    other = both()
    other.procedure.load_state_dict(state)
    assert other.procedure.state_dict() == state


def test_two_that_decide_on_one_question_are_refused() -> None:
    method = LoRA(r=2).with_parts(procedure=[Second(), Chain(rounds=2)])
    with pytest.raises(MethodError, match=r"Second and chain do not go together: .* phases"):
        Loop(method.apply(tiny_bert()), method, total_steps=2)


def test_a_part_names_no_layer_by_default() -> None:
    assert [Part.layer(cls) for cls in (Olora(), Gram(), Bilevel("m"))] == [None] * 3
    assert not isinstance(Chain().layer(), type(None))
    assert Layer().layer() is None
    assert issubclass(Olora, Init)
