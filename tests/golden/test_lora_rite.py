"""LoRA-RITE against `data/lora-rite`: the authors' code in float64, and our slow reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rankwright.optimizers import LoraRiteOptimizer, Pair
from rite_reference import Reference

DATA = Path(__file__).parent / "data" / "lora-rite"
RTOL = 1e-9  # the notes' tolerance in float64

CASES: dict[str, tuple[float, list[float], dict[str, Any]]] = {
    "default_zero_b": (2.0, [0.01] * 6, {}),
    "escape_wd_cap": (
        2.0,
        [0.01] * 6,
        {"betas": (0.8, 0.95), "escape": True, "weight_decay": 0.01, "cap": 0.5},
    ),
    "warmup_from_zero_lr": (
        1.5,
        [0.0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.01],
        {"clip": 0.0, "skip": 0.0},
    ),
    "invariance": (2.0, [0.01] * 6, {"betas": (0.9, 0.999)}),
}


def close(found: Tensor, expected: Tensor, rtol: float = RTOL) -> None:
    atol = rtol * max(float(expected.abs().max()), 1e-30)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


class Case:
    """Golden figures with the pairs that reproduce them."""

    def __init__(self, name: str, start: str = "0_{}") -> None:
        self.g = load_file(DATA / f"{name}.safetensors")
        self.s, self.lrs, self.options = CASES[name]
        self.pairs = {}
        for k in range(sum(key.startswith("G_") for key in self.g)):
            A, B = (nn.Parameter(self.g[side + start.format(k)].clone()) for side in "AB")
            self.pairs[str(k)] = Pair(str(k), A, B, self.s)

    def gradients(self, step: int) -> list[tuple[Tensor, Tensor]]:
        """s B^T G and s G A^T of every pair."""
        found = []
        for k, (A, B) in self.pairs.items():
            G = self.g[f"G_{k}"][step]
            found.append((self.s * B.detach().T @ G, self.s * G @ A.detach().T))
        return found

    def optimizer(self) -> LoraRiteOptimizer:
        return LoraRiteOptimizer(
            [p for pair in self.pairs.values() for p in pair], self.pairs, **self.options
        )

    def step(self, optimizer: LoraRiteOptimizer, step: int) -> None:
        optimizer.param_groups[0]["lr"] = self.lrs[step]
        for pair, (dA, dB) in zip(self.pairs.values(), self.gradients(step), strict=True):
            pair.A.grad, pair.B.grad = dA, dB
        optimizer.step()


@pytest.mark.parametrize("name", CASES)
def test_trajectory_and_moments(name: str) -> None:
    case = Case(name)
    optimizer, g = case.optimizer(), case.g
    for step in range(len(case.lrs)):
        before = {
            k: (pair.A.detach().clone(), pair.B.detach().clone()) for k, pair in case.pairs.items()
        }
        case.step(optimizer, step)
        for k, pair in case.pairs.items():
            close(pair.A.detach(), g[f"A_{k}"][step])
            close(pair.B.detach(), g[f"B_{k}"][step])
            if name == "invariance":  # has no moments
                continue
            A, B = before[k]
            state_A, state_B = optimizer.state[pair.A], optimizer.state[pair.B]
            # M_A^T = R N_A and V_A = R K_A R^T, with B = U R; so U M_A^T = B N_A
            close(B @ state_A["exp_avg"], g[f"MA_lift_{k}"][step])
            close(state_B["exp_avg"] @ A, g[f"MB_lift_{k}"][step])
            for side, S in (("A", B.T @ B), ("B", A @ A.T)):
                K = (state_A if side == "A" else state_B)["exp_avg_sq"]
                root = torch.linalg.cholesky(K + 1e-300 * torch.eye(len(K))) if S.any() else K
                close(torch.linalg.eigvalsh(root.T @ S @ root), g[f"V{side}_eig_{k}"][step])
            if "escape" in case.options:
                close(state_A["escaped"], g[f"escA_{k}"][step])
                close(state_B["escaped"], g[f"escB_{k}"][step])


def test_another_factorisation_of_the_same_product() -> None:
    """A' = R A and B' = B R^-1 at every step, and the same B A."""
    case = Case("invariance", start="0p")
    optimizer = case.optimizer()
    for step in range(len(case.lrs)):
        case.step(optimizer, step)
        A, B = (p.detach() for p in case.pairs["0"])
        close(B @ A, case.g["BA"][step])
        close(A, case.g["Ap"][step])
        close(B, case.g["Bp"][step])


@pytest.mark.parametrize("name", CASES)
def test_the_slow_reference_has_the_same_figures(name: str) -> None:
    case = Case(name)
    reference = Reference(
        [(pair.A.detach(), pair.B.detach()) for pair in case.pairs.values()], **case.options
    )
    for step, lr in enumerate(case.lrs):
        for pair, (A, B) in zip(case.pairs.values(), reference.factors(), strict=True):
            pair.A.data, pair.B.data = A, B
        reference.step(case.gradients(step), lr)
        for k, (A, B) in enumerate(reference.factors()):
            close(A, case.g[f"A_{k}"][step])
            close(B, case.g[f"B_{k}"][step])
