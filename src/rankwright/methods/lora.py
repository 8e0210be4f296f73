"""LoRA: the low-rank update every other method here is compared with.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685.

    y = x W^T + b + s (dropout(x) A^T) B^T,    s = lora_alpha / r

W (out, in) and b are frozen, A (r, in) starts Kaiming-uniform, B (out, r) at zero. With
G = dL/dW_eff:  dL/dA = s B^T G,  dL/dB = s G A^T. The layer is PEFT's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.slots import Slots


@register_method
@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """Low-rank adaptation; all its fields are those of `Method`."""

    name: ClassVar[str] = "lora"
    summary: ClassVar[str] = "adds a trained low-rank product to every frozen weight"
    reference: ClassVar[str] = "Hu et al., arXiv 2106.09685"
    cost: ClassVar[str] = "1 pass per step; r (in + out) parameters per layer"

    def slots(self) -> Slots:
        """Every slot at its default."""
        return Slots()
