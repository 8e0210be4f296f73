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

from rankwright.core.method import Method, Slots
from rankwright.core.registry import register
from rankwright.core.search import LARGE_STEPS, SearchSpace
from rankwright.optimizers import LoraRite


@register
@dataclass(frozen=True, kw_only=True)
class LoRARITE(Method):
    """LoRA under an optimizer that is invariant to transformations of the factors.

    "Published" is the code at gkevinyen5418/LoRA-RITE@c9bb451.

    Attributes:
        betas: Decay of the first and second moment; (0.9, 0.999) (published).
        eps: Added to the root of every eigenvalue of V; 1e-6 (published).
        clip: Limit on the norm of all g together; 1 (published), 0: none. The trainer's own
            clipping is switched off.
        skip: Limit on the root mean square of a g, beyond which it is left out of the step; 1
            (published), 0: none.
        cap: Limit on the root mean square of M in a step; 0: none (published).
        escape: Compensate for what V loses when its space turns, rho; off (published code; on in
            the paper).
        balance: Scale A and B to equal norms after every step; off (published).
        rcond: Singular values of a factor below this share of the largest count as zero; None: the
            limit of rounding.
        second_order: Limit on the part of a step that is quadratic in the learning rate, over the
            linear part; 3 (ours), 0: none (published).
    """

    name: ClassVar[str] = "lora_rite"
    summary: ClassVar[str] = "LoRA whose steps do not depend on how the update is factored"
    reference: ClassVar[str] = "Yen et al., ICLR 2025, arXiv 2410.20625"
    cost: ClassVar[str] = (
        "1 pass a step; r (in + out) parameters a layer, and as many numbers of optimizer state"
    )

    space: ClassVar[SearchSpace] = LARGE_STEPS

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    clip: float = 1.0
    skip: float = 1.0
    cap: float = 0.0
    escape: bool = False
    balance: bool = False
    rcond: float | None = None
    second_order: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slots()  # the part checks its fields

    def slots(self) -> Slots:
        """The optimizer; the rest is LoRA's."""
        return Slots(optimizer=LoraRite.from_fields(self))
