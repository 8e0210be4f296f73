"""Random A with orthonormal rows, and B = 0: the base model exactly, with ranks of one scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rankwright.core.part_registry import register_part
from rankwright.core.slots import Init
from rankwright.peft_layers.layers import adapted_layers, factor_parameters

if TYPE_CHECKING:
    from peft import PeftModel


@register_part("orthonormal")
@dataclass(frozen=True)
class Orthonormal(Init):
    """Random orthonormal rows of A; B = 0, as PEFT leaves it."""

    @torch.no_grad()
    def initialise(self, model: PeftModel, adapter_name: str) -> None:
        """See `Init.initialise`.

        Raises:
            MethodError: A layer is not linear.
        """
        for name, layer in adapted_layers(model).items():
            A, _ = factor_parameters(name, layer, adapter_name)
            drawn = torch.randn(*reversed(A.shape))  # (in, r), on the CPU for all devices
            rows, _ = torch.linalg.qr(drawn.double())
            A.copy_(rows.T)
