"""SoRA against `data/sora`: the authors' gate optimizer, gated layer and threshold lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rankwright.core.loop import Loop
from rankwright.layers.gated import gated_factors, prune
from rankwright.methods import SoRA
from rankwright.peft_layers.layers import adapted_layers
from rankwright.procedures.sparsify.sparsify import XiSchedule, xi_values

DATA = Path(__file__).parent / "data" / "sora"
RTOL = 1e-12  # the notes' tolerance in float64
LEARNING_RATES = [0.001, 0.001, 0.001, 0.0008, 0.0006, 0.0004, 0.0002, 0.0001]


def close(actual: Any, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=RTOL, atol=0)


class EpsOutside(torch.optim.Optimizer):
    """AdamW as transformers 4.14 had it: eps beside the root that is not yet bias-corrected."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 1e-3, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p] or {
                    "t": 0,
                    "m": torch.zeros_like(p),
                    "v": torch.zeros_like(p),
                }
                t, m, v = state["t"] + 1, state["m"].lerp(p.grad, 0.1), state["v"]
                v = 0.999 * v + 0.001 * p.grad**2
                p -= group["lr"] * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t) * m / (v.sqrt() + 1e-6)
                self.state[p] = {"t": t, "m": m, "v": v}


class Given(nn.Module):
    """A layer of 24 ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(24, 24, bias=False, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("gate_soft", {"xi": 3e-4}),
        ("gate_published", {"xi": 3e-4, "threshold": "published"}),
        ("gate_published_lr", {"xi": 0.5, "threshold": "published", "scale_with_lr": True}),
    ],
)
def test_gate_steps(key: str, fields: dict[str, Any]) -> None:
    """The loss is one whose gradient at the gates is the given one."""
    g = load_file(DATA / "gate_steps.safetensors")
    method = SoRA(r=24, target_modules=["layer"], dense_share=0.0, prune=False, **fields)
    model = method.apply(Given())
    (factor,) = gated_factors(adapted_layers(model), "default").values()
    factor.gate.data.copy_(g["gate0"][0])
    run = Loop(
        *(model, method),
        total_steps=len(g["grads"]),
        optimizer=EpsOutside,
        lr=1e-3,
        schedule=lambda _steps: lambda step: LEARNING_RATES[min(step, 7)] / 1e-3,
        loss=lambda model, grad: (
            (factor.gate * grad).sum() + 0 * sum(p.sum() for p in model.parameters())
        ),
    )
    for grad, expected in zip(g["grads"], g[key], strict=True):
        run.train_step(grad[0])
        close(factor.gate.detach(), expected[0])
        assert torch.equal(factor.gate == 0, expected[0] == 0)


@pytest.fixture
def layer() -> tuple[Any, dict[str, Tensor]]:
    g = load_file(DATA / "gated_layer_and_prune.safetensors")
    base = nn.Sequential(nn.Linear(12, 10, bias=False, dtype=torch.float64))
    nn.init.zeros_(base[0].weight)
    model = SoRA(r=8, lora_alpha=16, target_modules=["0"]).apply(base)
    (factor,) = gated_factors(adapted_layers(model), "default").values()
    factor.live.data.copy_(g["A"])
    factor.gate.data.copy_(g["gate"][0])
    model.base_model.model[0].lora_B["default"].weight.data.copy_(g["B"])
    return model, g


def test_gated_layer(layer: tuple[Any, dict[str, Tensor]]) -> None:
    model, g = layer
    (factor,) = gated_factors(adapted_layers(model), "default").values()
    B = model.base_model.model[0].lora_B["default"].weight
    x = g["x"].requires_grad_()
    y = model(x)
    atol = RTOL * float(g["y"].abs().max())  # zeros of the reference are sums that cancel
    torch.testing.assert_close(y.detach(), g["y"], rtol=RTOL, atol=atol)
    y.backward(g["grad_y"])
    for found, key in ((factor.live, "A"), (B, "B"), (factor.gate, "gate"), (x, "x")):
        expected = g[f"grad_{key}"].view_as(found)
        atol = RTOL * float(expected.abs().max())
        torch.testing.assert_close(found.grad, expected, rtol=RTOL, atol=atol)
    zeros = factor.gate == 0
    assert zeros.nonzero().flatten().tolist() == [1, 4, 5]
    assert not factor.live.grad[zeros].any()
    assert not B.grad[:, zeros].any()
    assert factor.gate.grad[zeros].all()


def test_prune(layer: tuple[Any, dict[str, Tensor]]) -> None:
    """The reference multiplies the gates into B, we into A: the product is the same."""
    model, g = layer
    assert prune(model, "default") == {"base_model.model.0": 5}
    module = model.base_model.model[0]
    A, B = module.lora_A["default"].weight.detach(), module.lora_B["default"].weight.detach()
    kept = g["gate"][0].nonzero().flatten()
    close(A, g["A_pruned"] * g["gate"][0, kept, None])
    close(B * g["gate"][0, kept], g["B_pruned"])
    atol = RTOL * float(g["delta_W"].abs().max())
    delta = module.get_delta_weight("default").detach()
    torch.testing.assert_close(delta, g["delta_W"], rtol=RTOL, atol=atol)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha) == (5, 10.0)


@pytest.mark.parametrize(
    ("schedule", "first"), [("linear", 0.0), ("log_linear", 1e-4), ("exp_linear", 1e-4)]
)
def test_xi_schedule(schedule: XiSchedule, first: float) -> None:
    g = load_file(DATA / "xi_schedule.safetensors")
    close(torch.tensor(xi_values(first, 7e-4, 7, schedule), dtype=torch.float64), g[schedule])
