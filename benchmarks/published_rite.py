"""LoRA-RITE as it is usually written: pair by pair, QR of both factors, bases kept.

For comparison of cost only. The equations are those of rankwright.optimizers.lora_rite, in float32,
with skip and clip decided on the host.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from rankwright.optimizers import Pair


class PublishedRite:
    """A step of every pair.

    Args:
        pairs: The pairs, with gradients.
        lr: Learning rate.
    """

    def __init__(self, pairs: dict[str, Pair], lr: float) -> None:
        self.pairs, self.lr, self.t = pairs, lr, 0
        self.betas, self.eps, self.clip, self.skip = (0.9, 0.999), 1e-6, 1.0, 1.0
        self.state: dict[nn.Parameter, dict[str, Any]] = defaultdict(dict)

    @torch.no_grad()
    def step(self) -> None:
        """Two passes: gradients and their common norm, then moments and steps."""
        self.t += 1
        b1, b2 = (b * (1 - b ** (self.t - 1)) / (1 - b**self.t) for b in self.betas)
        work: list[tuple[nn.Parameter, bool, Tensor, Tensor, Tensor]] = []
        total = 0.0
        for pair in self.pairs.values():
            for factor, other, wide in ((pair.A, pair.B, True), (pair.B, pair.A.T, False)):
                U, R = torch.linalg.qr(other)
                inverse = torch.linalg.pinv(R)
                gradient = factor.grad.T if wide else factor.grad  # type: ignore[union-attr]
                g = gradient @ inverse
                if float(g.square().mean().sqrt()) > self.skip:
                    g = torch.zeros_like(g)
                total += float(g.square().sum())
                work.append((factor, wide, U, inverse, g))
        scale = min(1.0, self.clip / max(total**0.5, 1e-30))
        for factor, wide, U, inverse, g in work:
            change = self._moments(self.state[factor], U, scale * g, b1, b2) @ inverse.T
            factor.sub_(change.T if wide else change, alpha=self.lr)

    def _moments(self, state: dict[str, Any], U: Tensor, g: Tensor, b1: float, b2: float) -> Tensor:
        if not state:
            state.update(U=torch.zeros_like(U), V=torch.zeros_like(U.T @ U), M=torch.zeros_like(g))
        P = U.T @ state["U"]
        V = b2 * P @ state["V"] @ P.T + (1 - b2) * g.T @ g / len(g)
        spectrum, Q = torch.linalg.eigh(V)
        S = g @ (Q / (spectrum.clamp(min=0).sqrt() + self.eps)) @ Q.T
        M: Tensor = b1 * state["M"] @ P.T + (1 - b1) * S
        state.update(U=U, V=V, M=M)
        return M
