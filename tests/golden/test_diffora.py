"""DiffoRA against `data/diffora`: gated forward, hypergradients of alpha, chosen modules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bilevel_probe import Probe, probed_step
from rankwright.core.slots import Slots
from rankwright.methods import DiffoRA
from rankwright.peft_layers.layers import adapted_layers
from rankwright.procedures.bilevel.gate_search import choose_layers

DATA = Path(__file__).parent / "data" / "diffora" / "relax_select.safetensors"
PLACES = [(block, kind) for block in range(3) for kind in range(3)]
FIELDS: dict[str, Any] = {
    "r": 2,
    "lora_alpha": 2,
    "target_modules": r"blocks\.\d\.\d",
    "modules_to_save": ["head"],
}


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-11) -> None:
    atol = rtol * float(expected.abs().max())
    torch.testing.assert_close(actual, expected.view_as(actual), rtol=rtol, atol=atol)


class Net(nn.Module):
    """Three blocks of three layers, tanh after each, then a head."""

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.ModuleList(nn.Linear(5, 5, bias=False) for _ in range(3)) for _ in range(3))
        self.blocks = nn.ModuleList(layers)
        self.head = nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            for layer in block:
                x = torch.tanh(layer(x))
        return self.head(x)


@dataclass(frozen=True, kw_only=True)
class Probed(DiffoRA):
    """DiffoRA whose procedure is a probe of its model."""

    name: ClassVar[str] = "probed"

    probe: Any = None

    def slots(self) -> Slots:
        slots = super().slots()
        return slots if self.probe is None else replace(slots, procedure=self.probe)


def layer(block: int, kind: int) -> str:
    return f"base_model.model.blocks.{block}.{kind}"


def start(g: dict[str, Tensor]) -> tuple[Any, dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The adapted network at the golden start, its lower and its upper parameters."""
    torch.manual_seed(0)
    base = Net().double()
    with torch.no_grad():
        for block, kind in PLACES:
            base.blocks[block][kind].weight.copy_(g[f"W.{block}.{kind}"])
    model = Probed(**FIELDS).apply(base)
    paths = {"A": "lora_A.default.live", "B": "lora_B.default.weight"}
    lower = {
        f"{name}.{block}.{kind}": model.get_parameter(f"{layer(block, kind)}.{path}")
        for name, path in paths.items()
        for block, kind in PLACES
    }
    head = model.get_parameter("base_model.model.head.modules_to_save.default.weight")
    lower["head.weight"] = head
    upper = {
        f"{block}.{kind}": model.get_parameter(f"{layer(block, kind)}.lora_A.default.gate")
        for block, kind in PLACES
    }
    with torch.no_grad():
        for name, parameter in lower.items():
            parameter.copy_(g[f"init.{name}"])
        for (block, kind), alpha in zip(PLACES, upper.values(), strict=True):
            alpha.copy_(g["init.alpha"][block, kind])
    return model, lower, upper


def test_every_mode_of_the_hypergradient() -> None:
    g = load_file(DATA)
    model, lower, upper = start(g)
    close(model(g["tr.x"]).detach(), g["logits_tr"], 1e-13)
    method = Probed(**FIELDS, probe=Probe(lower, upper))
    run = probed_step(model, method, g, "sgd", lower)
    for index, (name, parameter) in enumerate(lower.items()):
        close(parameter.detach(), g[f"sgd.step1.{name}"], 1e-12)
        close(run.procedure.v[index], g[f"sgd.v.{name}"], 1e-11)
    columns = {"exact": "exact", "fd_central": "fd_central", "betty": "betty"}
    for mode, column in {**columns, "first_order": "direct"}.items():
        found = torch.cat(run.procedure.estimates[mode].gradient).view(3, 3)
        close(found, g[f"sgd.{column}.alpha"], 1e-10)


@pytest.mark.parametrize(("scope", "column"), [("block", "dam_per_layer"), ("model", "dam_global")])
def test_the_chosen_modules(scope: Any, column: str) -> None:
    g = load_file(DATA)
    gates = {f"blocks.{b}.{k}": float(g["gate"][b, k]) for b, k in PLACES}
    kept, margin = choose_layers(gates, float(g["rho"]), scope)
    chosen = torch.tensor([float(name in kept) for name in gates], dtype=torch.float64)
    assert torch.equal(chosen.view(3, 3), g[column])
    assert margin > 0


def test_the_forward_of_the_chosen_modules() -> None:
    g = load_file(DATA)
    model, *_ = start(g)
    layers = adapted_layers(model)
    for block, kind in PLACES:
        factor = layers[layer(block, kind)].lora_A["default"]
        factor.select(g["dam_per_layer"][block, kind].bool().view(1))
    close(model(g["tr.x"]).detach(), g["logits_tr_dam_per_layer"], 1e-13)
