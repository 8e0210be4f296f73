"""AdaLoRA beside PEFT's: the same values, scores and masks at every step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model
from torch import Tensor, nn

from rankwright.core.loop import Loop, constant_schedule
from rankwright.errors import MethodError
from rankwright.layers.gated import gated_factors
from rankwright.methods import AdaLoRA
from rankwright.peft_layers.layers import adapted_layers

STEPS, WARM, COOL = 30, 6, 9
NAMES = ("up", "down")

pytestmark = pytest.mark.filterwarnings("ignore:Could not find a config file")


class Net(nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(7, 9), nn.Linear(9, 6)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x)))


def batches() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    shapes = ((5, 7), (5, 6))
    return [
        tuple(torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes)  # type: ignore[misc]
        for _ in range(STEPS)
    ]


def starts() -> dict[str, tuple[Tensor, Tensor]]:
    """A (4, in) and B (out, 4) of each layer."""
    draw = torch.Generator().manual_seed(2)
    shapes = {"up": (7, 9), "down": (9, 6)}
    return {
        name: (
            0.3 * torch.randn(4, n, generator=draw, dtype=torch.float64),
            0.3 * torch.randn(m, 4, generator=draw, dtype=torch.float64),
        )
        for name, (n, m) in shapes.items()
    }


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def ours(**fields: Any) -> Loop:
    """Our run; PEFT divides by r' + 1e-5."""
    values: dict[str, Any] = {"every": 1, "warm": WARM / STEPS, "cool": COOL / STEPS} | fields
    method = AdaLoRA(
        **{"r": 2, "start_rank": 4, "target_modules": list(NAMES), **values},
        lora_alpha=8 * 4 / (4 + 1e-5),
    )
    run = Loop(
        *(method.apply(Net()), method),
        total_steps=STEPS,
        lr=0.02,
        loss=loss_of,
        targets=lambda _model, batch: len(batch[1]),
        schedule=constant_schedule,
    )
    with torch.no_grad():
        for layer, (A, B) in zip(
            adapted_layers(run.model).values(), starts().values(), strict=True
        ):
            layer.lora_A["default"].live.copy_(A)
            layer.lora_B["default"].weight.copy_(B)
    return run


def theirs(every: int) -> tuple[Any, torch.optim.Optimizer]:
    config = AdaLoraConfig(
        target_r=2,
        init_r=4,
        lora_alpha=8,
        tinit=WARM,
        tfinal=COOL,
        deltaT=every,
        total_step=STEPS,
        orth_reg_weight=0.5,
        target_modules=list(NAMES),
    )
    model = get_peft_model(Net(), config)
    with torch.no_grad():
        for name, (A, B) in starts().items():
            layer = model.base_model.model.get_submodule(name)
            layer.lora_A["default"].copy_(A)
            layer.lora_B["default"].copy_(B)
    # PEFT 0.21.2 makes the divisor of the scaling trainable unless the base is float32
    parameters = [p for n, p in model.named_parameters() if p.requires_grad and "ranknum" not in n]
    return model, torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.0)


def their_penalty(model: Any) -> Tensor:
    """PEFT adds it to `outputs.loss`, which this model has not."""
    terms = [
        torch.linalg.matrix_norm((p @ p.T if "lora_A" in n else p.T @ p) - torch.eye(4))
        for n, p in model.named_parameters()
        if "lora_A" in n or "lora_B" in n
    ]
    return 0.5 * torch.stack(terms).mean()


@pytest.mark.parametrize("every", [1, 3])
def test_it_takes_the_steps_and_masks_of_pefts_allocator(every: int) -> None:
    run, (model, optimizer) = ours(every=every), theirs(every)
    for t, batch in enumerate(batches(), start=1):
        run.train_step(batch)
        (loss_of(model, batch) + their_penalty(model)).backward()
        optimizer.step()
        model.base_model.update_and_allocate(t)
        optimizer.zero_grad()
        for name, factor in gated_factors(run.layers, "default").items():
            layer = model.get_submodule(name)
            expected = layer.lora_E["default"].detach().flatten()
            torch.testing.assert_close(factor.gate.detach(), expected, rtol=1e-8, atol=1e-10)
            assert torch.equal(factor.gate == 0, expected == 0), t
    closed = sum(int((f.gate == 0).sum()) for f in gated_factors(run.layers, "default").values())
    assert closed == 4
    x = batches()[0][0]
    before = run.model(x).detach()
    run.finish()
    torch.testing.assert_close(run.model(x), before, rtol=1e-12, atol=1e-12)
    assert sum(layer.r["default"] for layer in adapted_layers(run.model).values()) == 4


def test_the_penalty_is_not_part_of_the_reported_loss() -> None:
    batch = batches()[0]
    weighted, bare = (ours(orthogonality=weight).train_step(batch) for weight in (0.5, 0.0))
    assert weighted == bare


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start_rank": 1}, "start_rank = 1.*at least r = 2"),
        ({"cool": 0.9}, "cool = 0.9"),
        ({"every": 0}, "every = 0"),
        ({"beta2": 1.0}, "beta2 = 1.0"),
    ],
)
def test_wrong_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        ours(**fields)
