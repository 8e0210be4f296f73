"""The smallest optimizer of pairs that keeps state of both factors: momentum on natural steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from rankwright.core.slots import OptimizerPart, Procedure, Slots
from rankwright.layers.stacked.layer import StackedLoRA
from rankwright.methods import LoRA
from rankwright.optimizers import PairOptimizer, named_pairs
from rankwright.procedures.chain.chain import Chain


class Momentum(PairOptimizer):
    """A <- A - lr N, N <- 0.9 N + (B^T B + 1)^-1 dL/dA, with N in float64; B likewise."""

    def __init__(self, params, pairs, *, lr=1e-2, weight_decay=0.0):
        super().__init__(
            params, pairs, {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.999)}
        )

    def step_pairs(self, batches):
        self.seen = [[pair.name for pair in part.pairs] for part in batches]
        for part in batches:
            (A, B), (dA, dB) = part.factors(), part.gradients()
            eye = torch.eye(A.shape[1], dtype=A.dtype)
            dA = torch.linalg.solve(B.mT @ B + eye, dA)
            dB = torch.linalg.solve(A @ A.mT + eye, dB.mT).mT
            As, Bs = [pair.A for pair in part.pairs], [pair.B for pair in part.pairs]
            part.move(self._averaged(As, dA), self._averaged(Bs, dB))

    def _averaged(self, parameters, changes):
        means = self.moments(parameters, "mean", changes.shape[1:], torch.float64)
        means = 0.9 * means + changes
        self.keep(parameters, "mean", means)
        return means


@dataclass(frozen=True)
class MomentumPart(OptimizerPart):
    """Builds it, and remembers the last one built."""

    built: ClassVar[list[Momentum]] = []

    def build(self, run: Any, groups: list[dict[str, Any]]) -> Momentum:
        self.built[:] = [Momentum(groups, named_pairs(run.layers, run.adapter_name))]
        return self.built[0]


@dataclass(frozen=True, kw_only=True)
class MomentumLoRA(LoRA):
    """LoRA, or a chain of LoRAs, under that optimizer."""

    name: ClassVar[str] = "momentum"
    chain: Chain | None = field(default=None)

    def slots(self) -> Slots:
        if self.chain is None:
            return Slots(optimizer=MomentumPart(), procedure=Procedure())
        return Slots(layer=StackedLoRA(), optimizer=MomentumPart(), procedure=self.chain)
