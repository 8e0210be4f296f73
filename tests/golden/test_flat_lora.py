"""Flat-LoRA against `data/flat-lora`: the authors' training step with its draws stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from chain_toy import Tanh, mean_square
from rankwright.core.loop import Loop, constant_schedule
from rankwright.kernels.seeded_noise import Noise
from rankwright.methods import FlatLoRA

DATA = Path(__file__).parent / "data" / "flat-lora"
RTOL = 1e-9  # the notes' tolerance in float64


def close(actual: Any, expected: Tensor) -> None:
    atol = RTOL * max(float(expected.abs().max()), 1e-30)
    torch.testing.assert_close(actual, expected, rtol=RTOL, atol=atol)


class Recorder(Loop):
    """A loop that keeps the gradients of every step."""

    def fire(self, event: str) -> None:
        if event == "after_step":
            self.seen = {n: p.grad.clone() for n, p in self.trainable().items()}
        super().fire(event)


@pytest.mark.parametrize(
    ("file", "rho", "alpha", "accumulation", "ramp", "lr", "decay"),
    [("steps5", 0.3, 4.0, 1, 8, 0.02, 0.0), ("accum2", 0.4, 8.0, 2, 7, 0.03, 0.01)],
)
def test_trajectory(
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    rho: float,
    alpha: float,
    accumulation: int,
    ramp: int,
    lr: float,
    decay: float,
) -> None:
    """`ramp` is in optimizer steps: the reference's micro-steps over the accumulation."""
    g = load_file(DATA / f"{file}.safetensors")
    count = sum(key.startswith("W.") for key in g)
    method = FlatLoRA(rho=rho, r=2, lora_alpha=alpha, target_modules=r".*\.?\d+")
    model = method.apply(Tanh([g[f"W.{i}"] for i in range(count)]))
    layers = [model.base_model.model.layers[i] for i in range(count)]
    for i, layer in enumerate(layers):
        layer.lora_A["default"].weight.data.copy_(g[f"A_init.{i}"])
        layer.lora_B["default"].weight.data.copy_(g[f"B_init.{i}"])
    run = Recorder(
        *(model, method),
        total_steps=ramp,
        optimizer=lambda groups: torch.optim.AdamW(groups, weight_decay=decay),
        lr=lr,
        weight_decay=decay,
        schedule=constant_schedule,
        loss=mean_square,
    )

    def stored(noise: Noise, dtype: torch.dtype) -> Tensor:
        i = [layer.in_features for layer in layers].index(noise.in_features)
        close(noise.std, g[f"rowstd{run.step}.{i}"])
        return g[f"noise{run.step}.{i}"].to(dtype, copy=True)

    monkeypatch.setattr(Noise, "draw", stored)
    for step in range(len(g["loss"]) // accumulation):
        micro = range(step * accumulation, (step + 1) * accumulation)
        loss = run.train_step(*((g["x"][k], g["y"][k]) for k in micro))
        close(torch.tensor(loss, dtype=torch.float64), g["loss"][list(micro)].mean())
        close(torch.tensor(run.metrics["noise"], dtype=torch.float64), rho * g["factor"][micro[0]])
        for i, layer in enumerate(layers):
            for name in ("A", "B"):
                factor = getattr(layer, f"lora_{name}")["default"]
                close(factor.weight.detach(), g[f"opt{step}.{name}.{i}"])
                key = f"base_model.model.layers.{i}.lora_{name}.default.weight"
                close(run.seen[key], g[f"opt{step}.grad{name}.{i}"])
            assert torch.equal(layer.get_base_layer().weight, g[f"W.{i}"])
