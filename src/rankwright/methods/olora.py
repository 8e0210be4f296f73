"""OLoRA: LoRA started from the QR factors of the weight, which are subtracted again.

Büyükakyüz, "OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models", arXiv 2406.01775.

    W = Q R,    B_0 = Q[:, :r],    A_0 = R[:r],    y = x W^T + b + s x (B A - B_0 A_0)^T

W (out, in) and b are frozen, A (r, in) starts at A_0 and B (out, r), orthonormal, at B_0; the base
is not edited. B_0 A_0 is W projected onto the span of its own first r columns. Both factors have a
gradient from the first step on: dL/dA = s B^T G and dL/dB = s G A^T, G = dL/dW_eff.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.core.export import Export
from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.search_space import LARGE_STEPS, SearchSpace
from rankwright.core.slots import Slots
from rankwright.inits import Olora


@register_method
@dataclass(frozen=True, kw_only=True)
class OLoRA(Method):
    """LoRA from an orthonormal start; its fields are those of `Method`.

    Attributes:
        lora_alpha: Numerator of s; 8, hence s = 1 at the default rank (ours; PEFT's example: 16
            at r = 32).
    """

    name: ClassVar[str] = "olora"
    summary: ClassVar[str] = "LoRA that starts from the QR factors of each weight"
    reference: ClassVar[str] = "Büyükakyüz, arXiv 2406.01775"
    cost: ClassVar[str] = (
        "1 pass per step, with the products of rank 2 r; trains r (in + out) parameters per layer, "
        "stores twice as many"
    )
    space: ClassVar[SearchSpace] = LARGE_STEPS

    lora_alpha: float = 8.0

    def slots(self) -> Slots:
        """The start; the rest is LoRA's."""
        return Slots(init=Olora(), export=Export("LoRA adapter of rank 2 r"))
