"""PiSSA: LoRA started from the principal singular vectors of the weight, subtracted again.

Meng, Wang, Zhang, "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large
Language Models", NeurIPS 2024, arXiv 2404.02948.

    W = U S V^T,    A_0 = sqrt(S_r / s) V_r^T,    B_0 = U_r sqrt(S_r / s)
    y = x W^T + b + s x (B A - B_0 A_0)^T

W (out, in) and b are frozen, A (r, in) starts at A_0 and B (out, r) at B_0; the base is not
edited. s B_0 A_0 is the best approximation of W of rank r, and what remains, W - s B_0 A_0, has the
singular values S_(r+1), ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.core.export import Export
from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.search_space import LARGE_STEPS, SearchSpace
from rankwright.core.slots import Slots
from rankwright.inits import Pissa


@register_method
@dataclass(frozen=True, kw_only=True)
class PiSSA(Method):
    """LoRA on the principal part of each weight.

    Attributes:
        lora_alpha: Numerator of s; 8, hence s = 1 at the default rank (published: lora_alpha = r).
    """

    name: ClassVar[str] = "pissa"
    summary: ClassVar[str] = "LoRA that starts from the leading singular vectors of each weight"
    reference: ClassVar[str] = "Meng, Wang, Zhang, NeurIPS 2024, arXiv 2404.02948"
    cost: ClassVar[str] = (
        "1 pass per step, with the products of rank 2 r; trains r (in + out) parameters per layer, "
        "stores twice as many; an SVD of each weight at the start"
    )
    space: ClassVar[SearchSpace] = LARGE_STEPS

    lora_alpha: float = 8.0
    niter: int | None = from_part(Pissa)
    svd_seed: int = from_part(Pissa, "seed")

    def slots(self) -> Slots:
        """The start; the rest is LoRA's."""
        return Slots(init=Pissa.from_fields(self), export=Export("LoRA adapter of rank 2 r"))
