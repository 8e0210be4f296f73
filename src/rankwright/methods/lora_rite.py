"""LoRA-RITE: LoRA whose steps of W do not depend on how the update is factored into B and A.

Yen et al., "LoRA Done RITE: Robust Invariant Transformation Equilibration for LoRA Optimization",
ICLR 2025, arXiv 2410.20625.

    W = W0 + s B A,    A (r, in),    B (out, r),    B = U_B R_B,    A^T = U_A R_A

with U^T U = I. The gradient of A without the size of B, its second moment in the space of B, and
the step it is equalised with (all the same for B, in the space of A):

    g_A = (dL/dA)^T R_B^+  (in, r),    V_A <- b2 P V_A P^T + (1 - b2) g_A^T g_A / in  (r, r)
    M_A <- b1 M_A P^T + (1 - b1) g_A (V_A + rho_A I)^(-1/2),    A <- A - lr R_B^+ M_A^T

P = U_B(t)^T U_B(t-1) moves the moments to the present space. For any invertible R, factors R A and
B R^-1 take the steps of A and B: the same W. Under AdamW they do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.search_space import LARGE_STEPS, SearchSpace
from rankwright.core.slots import Slots
from rankwright.optimizers import LoraRite


@register_method
@dataclass(frozen=True, kw_only=True)
class LoRARITE(Method):
    """LoRA under an optimizer that is invariant to transformations of the factors."""

    name: ClassVar[str] = "lora_rite"
    summary: ClassVar[str] = "LoRA whose steps do not depend on how the update is factored"
    reference: ClassVar[str] = "Yen et al., ICLR 2025, arXiv 2410.20625"
    cost: ClassVar[str] = (
        "1 pass per step; r (in + out) parameters per layer, and as many numbers of optimizer state"
    )

    space: ClassVar[SearchSpace] = LARGE_STEPS

    betas: tuple[float, float] = from_part(LoraRite)
    eps: float = from_part(LoraRite)
    clip: float = from_part(LoraRite)
    skip: float = from_part(LoraRite)
    cap: float = from_part(LoraRite)
    escape: bool = from_part(LoraRite)
    balance: bool = from_part(LoraRite)
    rcond: float | None = from_part(LoraRite)
    second_order: float = from_part(LoraRite)

    def slots(self) -> Slots:
        """The optimizer; the rest is LoRA's."""
        return Slots(optimizer=LoraRite.from_fields(self))
