"""LoRA-Pro against `data/lora-pro`: the authors' code, run in float64 and as it was published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rankwright.optimizers import LoraProAdamW, Pair
from rankwright.optimizers.equivalent import adjusted_gradients

DATA = Path(__file__).parent / "data" / "lora-pro"


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-8) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("x_mode", "suffix"), [("sylvester", ""), ("symmetric", "_symmetric"), ("zero", "_X0")]
)
def test_closed_form(x_mode: Any, suffix: str) -> None:
    g = load_file(DATA / "closed_form.safetensors")
    A, B, s = g["A"], g["B"], 2.0
    gA, gB = adjusted_gradients(A, B, g["grad_A"], g["grad_B"], s, x_mode=x_mode)
    close(gA, g[f"gA{suffix}"], 1e-9)
    close(gB, g[f"gB{suffix}"], 1e-9)
    close(s * B @ gA + s * gB @ A, g["equiv"], 1e-9)
    close(g["equiv"], g["tangent_proj"], 5e-8)  # up to the ridge


@pytest.mark.parametrize(
    ("file", "s", "rates", "options"),
    [
        ("adamw_efficient", 2.0, [1e-3] * 6, {"weight_decay": 0.01}),
        ("adamw_full_zero_b", 2.0, [1e-3] * 6, {"mode": "full"}),
        ("adamw_full_nonzero_b", 0.5, [5e-3, 5e-3, 4e-3, 3e-3, 2e-3], {"mode": "full"}),
        ("as_published_quirks", 2.0, [1e-3] * 6, {"mode": "full", "as_published": True}),
    ],
)
def test_trajectory(file: str, s: float, rates: list[float], options: dict[str, Any]) -> None:
    g = load_file(DATA / f"{file}.safetensors")
    A, B = nn.Parameter(g["A0"].clone()), nn.Parameter(g["B0"].clone())
    optimizer = LoraProAdamW([A, B], {"0": Pair("0", A, B, s)}, **options)
    for step, (G, lr) in enumerate(zip(g["G"], rates, strict=True)):
        optimizer.param_groups[0]["lr"] = lr
        A.grad, B.grad = s * B.detach().T @ G, s * G @ A.detach().T
        before = A.detach().clone(), B.detach().clone()
        optimizer.step()
        close(A.detach(), g["A"][step])
        close(B.detach(), g["B"][step])
        if "exp_avg" in g:
            close(optimizer.state[A]["weight_exp_avg"], g["exp_avg"][step])
            close(optimizer.state[A]["weight_exp_avg_sq"], g["exp_avg_sq"][step])
            close((before[0] - A.detach()) / lr, g["gA"][step], 1e-7)  # a difference of two
            close((before[1] - B.detach()) / lr, g["gB"][step], 1e-7)


def test_the_published_slips_are_not_ours() -> None:
    """The first step of the published code is 0.744 of AdamW's, its bias correction being wrong."""
    g = load_file(DATA / "as_published_quirks.safetensors")
    A, B = nn.Parameter(g["A0"].clone()), nn.Parameter(g["B0"].clone())
    optimizer = LoraProAdamW([A, B], {"0": Pair("0", A, B, 2.0)}, mode="full", lr=1e-3)
    A.grad, B.grad = 2 * B.detach().T @ g["G"][0], 2 * g["G"][0] @ A.detach().T
    optimizer.step()
    ratio = (g["B0"] - g["B"][0]) / (g["B0"] - B.detach())
    close(ratio, torch.full_like(ratio, (0.1 / 0.19) * (0.001999 / 0.001) ** 0.5), 1e-4)
