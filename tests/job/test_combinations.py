"""docs/combinations.md is what probing finds, and probing finds what is broken."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from method_table import METHODS
from rankwright.core.method import Method
from rankwright.core.part_registry import SLOTS, available_parts
from rankwright.core.run import Run
from rankwright.core.slots import Procedure, ProcedureState
from rankwright.errors import MethodError
from rankwright.inits import Pissa
from rankwright.job.combinations import BrokenError, Pair, probe, probe_method, small
from rankwright.job.combinations_page import parse_page, render_page
from rankwright.methods import COLA, DoRA, LoRA, LoRAPro, OLoRA, RACLoRA, SoRA, XGBLoRA
from rankwright.optimizers import LoraPro, LoraRite
from rankwright.penalties import Gram, Outputs
from rankwright.procedures import Bilevel, Perturbation
from rankwright.procedures.chain.chain import Chain

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "combinations.md").read_text("utf-8")


def test_the_page_has_every_method_and_every_named_part() -> None:
    named = {(slot, name) for slot in SLOTS for name in available_parts(slot)}
    found = {(pair.method, pair.slot, pair.part) for pair in parse_page(PAGE)}
    assert found == {(method, *part) for method in METHODS for part in named}, "probe again"


@pytest.mark.parametrize("method", METHODS)
def test_the_page_has_the_results_of_probing(method: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = probe_method(method)
    said = {(pair.slot, pair.part): pair for pair in parse_page(PAGE) if pair.method == method}
    for pair in found:
        assert said[pair.slot, pair.part] == pair, "rankwright parts probe --output docs/combi..."


SMALL: dict[str, Any] = {"r": 2, "target_modules": ["q_proj", "down_proj"]}
FOLD: dict[str, Any] = {**SMALL, "rounds": 4, "mode": "fold", "rank_cap": 1}
NOISE = Perturbation(rho=0.1, per_micro_batch=True)
TOGETHER = [
    COLA(**FOLD).with_parts(optimizer=LoraRite()),
    COLA(**SMALL, ranks=[2, 1, 2], mode="recompress", rank_cap=1).with_parts(procedure=NOISE),
    XGBLoRA(**FOLD).with_parts(init=Pissa(), procedure=NOISE, penalty=[Outputs(), Gram()]),
    XGBLoRA(**SMALL, rounds=4).with_parts(optimizer=LoraPro(mode="full", moments="8bit")),
    RACLoRA(**SMALL, rounds=3, frozen="B", projected=True, lora_dropout=0.1),
    SoRA(**SMALL, stages=2, xi=0.0, xi_last=0.5).with_parts(procedure=NOISE, penalty=Outputs()),
    DoRA(**SMALL, norm_grad="full").with_parts(
        init=Pissa(),
        penalty=Outputs(spectral=0.0),
        procedure=[NOISE, Bilevel(fd_share=0.5, retrain_from="warm")],
    ),
    LoRAPro(**SMALL, mode="full").with_parts(init=Pissa(), procedure=Chain(rounds=2)),
]
"""Several parts at once, in modes that the page, which has defaults, does not try."""


@pytest.mark.parametrize("method", TOGETHER, ids=lambda method: method.label)
def test_parts_that_work_in_pairs_work_together(method: Method) -> None:
    probe(method)


def test_a_page_is_read_as_it_was_written() -> None:
    pairs = [
        Pair("a", "init", "x", "yes"),
        Pair("a", "init", "y", "no", "too large; use (3)"),
        Pair("b", "init", "x", "its own"),
        Pair("b", "init", "y", "taken"),
        Pair("a", "penalty", "z", "no", "another reason"),
        Pair("b", "penalty", "z", "no", "too large; use (3)"),
    ]
    assert parse_page(render_page(pairs)) == pairs
    assert parse_page(PAGE) == parse_page(render_page(parse_page(PAGE)))


# What probing would not let pass ------------------------------------------------------------------


@dataclass(frozen=True)
class Rogue(Procedure):
    """Breaks a promise."""

    promise: str = "none"

    def start(self, run: Run) -> ProcedureState:
        return RogueState(run, self.promise)


class RogueState(ProcedureState):
    def __init__(self, run: Run, promise: str) -> None:
        super().__init__(run)
        self.promise, self.count = promise, 0

    @torch.no_grad()
    def after_step(self) -> None:
        self.count += 1
        factors = list(self.run.trainable().values())
        if self.promise == "base":
            next(iter(self.run.layers.values())).get_base_layer().weight.add_(0.1)
        if self.promise == "saved":
            layer = next(iter(self.run.layers.values()))
            layer.register_forward_hook(lambda _m, _i, y: y + 0.1)
        if self.promise == "resume":
            factors[-1].add_(0.1 * self.count)
        if self.promise == "error":
            raise RuntimeError("oh")


@pytest.mark.parametrize(
    ("promise", "message"),
    [
        ("base", "with the adapter disabled it is not the base"),
        ("saved", "with the adapter disabled it is not the base|plain PEFT loads another"),
        ("resume", "a resumed run ends at other numbers"),
        ("error", "RuntimeError: oh"),
    ],
)
def test_a_broken_promise_is_seen(promise: str, message: str) -> None:
    probe(small(LoRA).with_parts(procedure=Rogue()))
    with pytest.raises(BrokenError, match=message):
        probe(small(LoRA).with_parts(procedure=Rogue(promise)))


def test_a_refusal_is_passed_on() -> None:
    @dataclass(frozen=True)
    class Refuses(Rogue):
        def start(self, run: Run) -> Any:
            raise MethodError("not here")

    with pytest.raises(MethodError, match="not here"):
        probe(small(OLoRA).with_parts(procedure=Refuses()))
