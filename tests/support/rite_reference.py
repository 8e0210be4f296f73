"""LoRA-RITE one pair at a time, with QR and stored bases: slow, and beside the equations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Side:
    """One factor, as a tall matrix F (d, r), and the moments of its steps."""

    def __init__(self, F: Tensor) -> None:
        self.F, (self.d, self.r) = F.double().clone(), F.shape
        self.V, self.M = F.new_zeros(self.r, self.r).double(), torch.zeros_like(self.F)
        self.U = torch.zeros_like(self.F)  # basis of this factor at the last step
        self.rho = 0.0


class Reference:
    """The algorithm of the sheet, in float64.

    Args:
        factors: (A, B) of every pair.
        options: Fields of `LoraRite`, and `weight_decay`.
    """

    def __init__(self, factors: Sequence[tuple[Tensor, Tensor]], **options: Any) -> None:
        self.pairs = [(Side(A.T), Side(B)) for A, B in factors]
        defaults = {
            "betas": (0.9, 0.999),
            "eps": 1e-6,
            "clip": 1.0,
            "skip": 1.0,
            "cap": 0.0,
            "escape": False,
            "weight_decay": 0.0,
            "second_order": 3.0,
        }
        self.o = {**defaults, **options}
        self.t, self.rcond = 0, torch.finfo(torch.float64).eps ** 0.5

    def factors(self) -> list[tuple[Tensor, Tensor]]:
        return [(a.F.T, b.F) for a, b in self.pairs]

    def step(self, gradients: Sequence[tuple[Tensor, Tensor]], lr: float) -> None:
        """One step on (dL/dA, dL/dB) of every pair."""
        self.t += 1
        work = []
        for (a, b), (dA, dB) in zip(self.pairs, gradients, strict=True):
            for side, other, gradient in ((a, b, dA.double().T), (b, a, dB.double())):
                U, R = torch.linalg.qr(other.F)
                inverse = torch.linalg.pinv(R, rtol=self.rcond * len(R) ** 0.5)
                U = U @ R @ inverse  # no direction that the factor does not have
                g = gradient @ inverse
                rms = float(g.square().mean().sqrt())
                if not rms <= (self.o["skip"] or float("inf")):
                    g = torch.zeros_like(g)
                work.append((side, other, U, inverse, g))
        norm = float(torch.stack([g.norm() for *_, g in work]).norm())
        scale = min(1.0, self.o["clip"] / norm) if self.o["clip"] and norm else 1.0
        changes = [
            self._change(side, other, U, inverse, scale * g) for side, other, U, inverse, g in work
        ]
        changes = [
            c * change
            for (a, b), (of_A, of_B) in zip(self.pairs, _in_twos(changes), strict=True)
            for c in [self._limit(a, b, lr * of_A, lr * of_B)]
            for change in (of_A, of_B)
        ]
        for (side, other, U, _, _), change in zip(work, changes, strict=True):
            other.U = U
            side.F = side.F - lr * (change + self.o["weight_decay"] * side.F)

    def _limit(self, a: Side, b: Side, of_A: Tensor, of_B: Tensor) -> float:
        first, second = (b.F @ of_A.T + of_B @ a.F.T).norm(), (of_B @ of_A.T).norm()
        if not self.o["second_order"] or not second:
            return 1.0
        return min(1.0, float(self.o["second_order"] * first / second))

    def _change(self, side: Side, other: Side, U: Tensor, inverse: Tensor, g: Tensor) -> Tensor:
        b1, b2 = (b * (1 - b ** (self.t - 1)) / (1 - b**self.t) for b in self.o["betas"])
        P = U.T @ other.U
        moved = P @ side.V @ P.T
        if self.o["escape"]:
            lost = torch.linalg.eigvalsh(side.V) - torch.linalg.eigvalsh(moved)
            side.rho = b2 * (
                side.rho + min(max(0.0, float(lost.max())), max(0.0, float(lost.sum())))
            )
        side.V = b2 * moved + (1 - b2) * g.T @ g / side.d
        eigenvalues, Q = torch.linalg.eigh(side.V)
        eigenvalues = eigenvalues.clamp(min=0) + side.rho
        root = eigenvalues.sqrt() + self.o["eps"]
        root[eigenvalues <= len(root) * torch.finfo(torch.float64).eps * eigenvalues.max()] = (
            math.inf
        )
        side.M = b1 * side.M @ P.T + (1 - b1) * g @ (Q / root) @ Q.T
        rms = float(side.M.square().mean().sqrt())
        capped = max(1.0, rms / self.o["cap"]) if self.o["cap"] else 1.0
        return side.M / capped @ inverse.T


def _in_twos(changes: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Of A and of B of every pair."""
    return list(zip(changes[::2], changes[1::2], strict=True))
