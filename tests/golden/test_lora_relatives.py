"""LoRA+ and LoRA-FA against `data/lora`: two rates under AdamW, and PEFT's LoRA-FA optimizer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rankwright.core.loop import Loop, constant_schedule
from rankwright.core.method import Method
from rankwright.methods import LoRAFA, LoRAPlus
from rankwright.optimizers import Pair, named_pairs

DATA = Path(__file__).parent / "data" / "lora"


def close(actual: Tensor, expected: Tensor, rtol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


def one_layer(method: Method, A: Tensor, B: Tensor, **options: Any) -> tuple[Loop, Pair]:
    """A run over a linear layer whose factors are given."""
    base = nn.Sequential(nn.Linear(A.shape[1], B.shape[0], bias=False)).to(A.dtype)
    run = Loop(
        *(method.apply(base).to(A.dtype), method),
        total_steps=100,
        lr=1e-3,
        weight_decay=0.01,
        schedule=constant_schedule,
        **options,
    )
    (pair,) = named_pairs(run.model).values()
    with torch.no_grad():
        pair.A.copy_(A)
        pair.B.copy_(B)
    return run, pair


def test_lora_plus() -> None:
    g = load_file(DATA / "loraplus_adamw.safetensors")
    method = LoRAPlus(r=4, lora_alpha=8.0, target_modules=["0"], lr_ratio=16.0)
    run, pair = one_layer(method, g["A0"], g["B0"])
    s = pair.scaling
    for step, G in enumerate(g["G"]):
        pair.A.grad, pair.B.grad = s * pair.B.detach().T @ G, s * G @ pair.A.detach().T
        run.step_optimizer()
        close(pair.A.detach(), g["A"][step], 1e-10)
        close(pair.B.detach(), g["B"][step], 1e-10)


def test_lora_fa() -> None:
    """PEFT's AdamW adds its eps to the root before the correction: eps / sqrt(1 - b2^t) in torch's.

    It also decays after the step, not before, which differs by lr^2 times the decay: 1e-8.
    """
    g = load_file(DATA / "lorafa_peft.safetensors")
    method = LoRAFA(r=4, lora_alpha=8.0, target_modules=["0"])
    run, pair = one_layer(method, g["A"], g["B0"])
    for step, G in enumerate(g["G"]):
        for group in run.optimizer.param_groups:
            group["eps"] = 1e-6 / math.sqrt(1 - 0.999 ** (step + 1))
        pair.B.grad = pair.scaling * G @ pair.A.detach().T
        run.step_optimizer()
        close(pair.B.detach(), g["B"][step], 1e-4)  # the note's tolerance, in float32
    assert torch.equal(pair.A.detach(), g["A"])
