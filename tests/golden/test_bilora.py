"""BiLoRA against `data/bilora`: penalties, plain factors, and every mode of the hypergradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bilevel_probe import Probe, probed_step
from bilevel_toy import toy
from rankwright.core.method import Method
from rankwright.core.slots import Slots
from rankwright.methods import BiLoRA
from rankwright.penalties.near_binary import binary_entropy
from rankwright.penalties.orthogonality import orthogonality

DATA = Path(__file__).parent / "data" / "bilora"
LOWER = ("l0.P", "l0.Q", "l1.P", "l1.Q", "head.weight", "head.bias")
UPPER = ("l0.e", "l1.e")
PATHS = {
    "P": "lora_B.default.weight",
    "Q": "lora_A.default.live",
    "e": "lora_A.default.gate",
    "weight": "modules_to_save.default.weight",
    "bias": "modules_to_save.default.bias",
}
FIELDS: dict[str, Any] = {
    "r": 3,
    "lora_alpha": 6,
    "scale_by_rank": False,
    "orthogonality": 1e-2,
    "target_modules": ["l0", "l1"],
    "modules_to_save": ["head"],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "softmax": {"parametrisation": "softmax"},
    "sigmoid": {"parametrisation": "sigmoid", "near_binary": 1e-2},
}


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-11) -> None:
    atol = rtol * float(expected.abs().max())
    torch.testing.assert_close(actual, expected.view_as(actual), rtol=rtol, atol=atol)


def parameters(model: nn.Module, names: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """Parameters of the model by their golden names."""
    split = {name: name.split(".") for name in names}
    return {
        name: model.get_parameter(f"base_model.model.{module}.{PATHS[kind]}")
        for name, (module, kind) in split.items()
    }


def start(method: Method, g: dict[str, Tensor]) -> Any:
    """The adapted toy with the weights of a golden file."""
    base = toy()
    with torch.no_grad():
        base.l0.weight.copy_(g["l0.W"])
        base.l1.weight.copy_(g["l1.W"])
    model = method.apply(base)
    with torch.no_grad():
        for name, parameter in parameters(model, (*LOWER, *UPPER)).items():
            parameter.copy_(g[f"init.{name}"])
    return model


@dataclass(frozen=True, kw_only=True)
class Probed(BiLoRA):
    """BiLoRA whose procedure is a probe of its model."""

    name: ClassVar[str] = "probed"

    probe: Any = None

    def slots(self) -> Slots:
        slots = super().slots()
        return slots if self.probe is None else replace(slots, procedure=self.probe)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("case", OPTIONS)
def test_every_mode_of_the_hypergradient(case: str, kind: str) -> None:
    g = load_file(DATA / f"hypergrad_{case}.safetensors")
    method = Probed(**FIELDS, **OPTIONS[case])
    model = start(method, g)
    lower, upper = parameters(model, LOWER), parameters(model, UPPER)
    run = probed_step(model, replace(method, probe=Probe(lower, upper)), g, kind, lower)
    for index, (name, parameter) in enumerate(lower.items()):
        close(parameter.detach(), g[f"{kind}.step1.{name}"], 1e-12)
        close(run.procedure.v[index], g[f"{kind}.v.{name}"], 1e-12)
    columns = {"exact": "exact", "fd_central": "fd_central", "betty": "betty"}
    for mode, column in {**columns, "first_order": "direct"}.items():
        for index, name in enumerate(UPPER):
            close(run.procedure.estimates[mode].gradient[index], g[f"{kind}.{column}.{name}"])


@pytest.mark.parametrize("case", OPTIONS)
def test_penalties_and_plain_factors(case: str) -> None:
    g = load_file(DATA / f"hypergrad_{case}.safetensors")
    factors = [g[f"init.l{n}.{kind}"] for n in (0, 1) for kind in ("P", "Q")]
    factors = [f.T if f.shape[1] == 3 else f for f in factors]
    close(orthogonality(factors), g["R1"], 1e-13)
    if "R2" in g:
        close(sum(binary_entropy(g[f"init.l{n}.e"]) for n in (0, 1)), g["R2"], 1e-13)
    model = start(BiLoRA(**FIELDS, **OPTIONS[case]), g)
    close(model(g["tr.x"]).detach(), g["logits_tr"], 1e-13)
    for n in (0, 1):  # the golden file folds the values into B
        layer = model.get_submodule(f"base_model.model.l{n}")
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        close(product.detach(), g[f"lora.l{n}.B"] @ g[f"lora.l{n}.A"], 1e-13)
