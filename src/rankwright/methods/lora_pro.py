"""LoRA-Pro: LoRA whose factors move so that their product moves as the full weight would.

Wang et al., "LoRA-Pro: Are Low-Rank Adapters Properly Optimized?", ICLR 2025, arXiv 2407.18242.

    W = W0 + s B A,    G = dL/dW (out, in),    hA = s B^T G (r, in),    hB = s G A^T (out, r)

Directions (gA, gB) of the factors move W along E = s B gA + s gB A. Those that bring E closest to
G, from hA and hB alone, with P_B the projection on the columns of B, are

    gA = s^-2 (B^T B)^-1 hA + X A,    gB = s^-2 (I - P_B) hB (A A^T)^-1 - B X.

E does not depend on X (r, r). It is chosen to change the gradients least:
B^T B X + X A A^T = -s^-2 (B^T B)^-1 hA A^T. Then AdamW, on gA and gB ("efficient") or on E in the
space of W ("full"), whose update takes the place of G.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.core.method import Method, Slots
from rankwright.core.registry import register
from rankwright.core.search import LOW_RANK, OneOf, SearchSpace
from rankwright.optimizers import LoraPro
from rankwright.optimizers.equivalent import XMode
from rankwright.optimizers.lora_pro import Mode
from rankwright.optimizers.moments import Format


@register
@dataclass(frozen=True, kw_only=True)
class LoRAPro(Method):
    """LoRA with adjusted gradients.

    "Published" is the code at mrflogs/LoRA-Pro@fe26027, which has "full" only.

    Attributes:
        mode: "efficient" (ours): moments in the shapes of A and B, learning rates of LoRA. "full"
            (published): moments of out x in numbers, learning rates of full fine-tuning.
        x_mode: "sylvester" (published); "symmetric", "zero": other choices of X.
        delta: Ridge on both Gram matrices where they are inverted; 1e-8 (published). While B is
            small it is what limits the step of A.
        relative_delta: Whether it is relative to the mean of their diagonals (ours).
        betas: Decay rates of the moments.
        eps: Epsilon of AdamW.
        max_norm: Limit on the norm of E over all modules; None: none. The trainer's own clipping is
            switched off.
        moments: Format of the moments of "full": "float32", "bfloat16" or "8bit" (ours).
        moments_on_host: Keep them in the host's memory (ours).
        as_published: Reproduce what "full" of the published code does by mistake: bias correction
            from step 2, and a second moment of rounded squares.
    """

    name: ClassVar[str] = "lora_pro"
    summary: ClassVar[str] = "LoRA whose factors move so that the weight moves as in full training"
    reference: ClassVar[str] = "Wang et al., ICLR 2025, arXiv 2407.18242"
    cost: ClassVar[str] = (
        '1 pass a step; r (in + out) parameters a layer; "full" keeps 2 in out numbers a layer'
    )

    space: ClassVar[SearchSpace] = {**LOW_RANK, "x_mode": OneOf(("sylvester", "symmetric"))}

    mode: Mode = "efficient"
    x_mode: XMode = "sylvester"
    delta: float = 1e-8
    relative_delta: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_norm: float | None = None
    moments: Format = "float32"
    moments_on_host: bool = False
    as_published: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slots()  # the part checks its fields

    def slots(self) -> Slots:
        """The optimizer; the rest is LoRA's."""
        return Slots(optimizer=LoraPro.from_fields(self))
