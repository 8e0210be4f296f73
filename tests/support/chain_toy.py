"""A chain with any fields as a method, and a small network for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rankwright.core.method import Method
from rankwright.core.slots import Slots
from rankwright.layers.stacked.layer import StackedLoRA
from rankwright.procedures.chain.chain import Chain


@dataclass(frozen=True, kw_only=True)
class Chained(Method):
    """Any chain, as a method."""

    name: ClassVar[str] = "chained"
    summary: ClassVar[str] = "a chain"
    reference: ClassVar[str] = "-"
    cost: ClassVar[str] = "-"

    chain: Chain

    def slots(self) -> Slots:
        return Slots(layer=StackedLoRA(), procedure=self.chain)


class Tanh(nn.Module):
    """Linear layers without bias, tanh between them."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for weight in weights:
            layer = nn.Linear(*reversed(weight.shape), bias=False, dtype=weight.dtype)
            layer.load_state_dict({"weight": weight})
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        return self.layers[-1](x)


def mean_square(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return F.mse_loss(model(x), y)


def chained(model: nn.Module, chain: Chain, **options: Any) -> tuple[Any, Method]:
    method = Chained(chain=chain, target_modules=r".*\.?\d+", **options)
    return method.apply(model), method
