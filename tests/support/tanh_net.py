"""The network of the recorded runs of DoRA-dynamic and BeamLoRA."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class TanhNet(nn.Module):
    """Linear layers `fc.0`, `fc.1`, ... in float64 with a tanh between them, and none at the end.

    Args:
        dims: Widths, from the input to the output.
        start: Tensors of the recorded run: `init.<i>.W0` and `init.<i>.bias` of each layer.
    """

    def __init__(self, dims: tuple[int, ...], start: dict[str, Tensor]) -> None:
        super().__init__()
        shapes = itertools.pairwise(dims)
        self.fc = nn.ModuleList(nn.Linear(n, m, dtype=torch.float64) for n, m in shapes)
        with torch.no_grad():
            for i, layer in enumerate(self.fc):
                layer.weight.copy_(start[f"init.{i}.W0"])
                layer.bias.copy_(start[f"init.{i}.bias"])

    def forward(self, x: Tensor) -> Tensor:
        for place, layer in enumerate(self.fc):
            x = layer(torch.tanh(x) if place else x)
        return x
