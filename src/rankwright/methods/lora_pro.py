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

from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.search_space import LOW_RANK, OneOf, SearchSpace
from rankwright.core.slots import Slots
from rankwright.optimizers import LoraPro
from rankwright.optimizers.equivalent import XMode
from rankwright.optimizers.lora_pro import Mode
from rankwright.optimizers.moments import Format


@register_method
@dataclass(frozen=True, kw_only=True)
class LoRAPro(Method):
    """LoRA with adjusted gradients."""

    name: ClassVar[str] = "lora_pro"
    summary: ClassVar[str] = "LoRA whose factors move so that the weight moves as in full training"
    reference: ClassVar[str] = "Wang et al., ICLR 2025, arXiv 2407.18242"
    cost: ClassVar[str] = (
        "1 pass per step; r (in + out) parameters per layer; "
        '"full" keeps 2 in out numbers per layer'
    )

    space: ClassVar[SearchSpace] = {**LOW_RANK, "x_mode": OneOf(("sylvester", "symmetric"))}

    mode: Mode = from_part(LoraPro)
    x_mode: XMode = from_part(LoraPro)
    delta: float = from_part(LoraPro)
    relative_delta: bool = from_part(LoraPro)
    betas: tuple[float, float] = from_part(LoraPro)
    eps: float = from_part(LoraPro)
    max_norm: float | None = from_part(LoraPro)
    moments: Format = from_part(LoraPro)
    moments_on_host: bool = from_part(LoraPro)
    as_published: bool = from_part(LoraPro)

    def slots(self) -> Slots:
        """The optimizer; the rest is LoRA's."""
        return Slots(optimizer=LoraPro.from_fields(self))
