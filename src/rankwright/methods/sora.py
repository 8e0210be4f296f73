"""SoRA: LoRA with a gate on every rank; a proximal step closes gates, and their ranks are dropped.

Ding et al., "Sparse Low-rank Adaptation of Pre-trained Language Models", EMNLP 2023,
arXiv 2311.11696.

    y = x W^T + b + s ((x A^T) * g) B^T,    A (r, in),  B (out, r),  g (r,),  s = lora_alpha / r
    min over A, B, g of  L + lambda sum |g|_1

    g <- T_xi(g - step of the optimizer),   T_xi(x) = sign(x) max(|x| - xi, 0),   xi = eta lambda

after every optimizer step. At the end the ranks with g_j = 0 are dropped and g is multiplied into
A: a plain LoRA with a rank r' for each module, the scaling s as before. Optionally in stages with a
growing xi (the paper's Algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.core.export import Export
from rankwright.core.fields import check_field
from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.search_space import RATES, LogRange, OneOf, SearchSpace
from rankwright.core.slots import Slots
from rankwright.layers.gated import GatedLoRA, GateInit
from rankwright.penalties import L1
from rankwright.procedures.sparsify.proximal import Threshold
from rankwright.procedures.sparsify.sparsify import ROLE, Sparsify, XiSchedule

_MAPPED = ("gate_map", "gate_per", "gate_total", "temperature")  # gates are theta itself


@register_method
@dataclass(frozen=True, kw_only=True)
class SoRA(Method):
    """LoRA that finds the rank of each module.

    "Published" is the code at TsinghuaC3I/SoRA@c275ac2; the body of the paper could not be read.

    Attributes:
        r: Rank of every module at the start; 16 (published default; its scripts: 8).
        lora_alpha: Numerator of s; 32, hence s = 2 (published).
        l1_weight: Applied to the gates, in addition to the threshold; 0 for none (ours; published:
            10 on STS-B, 1e-3 on RTE).
    """

    name: ClassVar[str] = "sora"
    summary: ClassVar[str] = "LoRA with gated ranks; those whose gate goes to zero are dropped"
    reference: ClassVar[str] = "Ding et al., EMNLP 2023, arXiv 2311.11696"
    cost: ClassVar[str] = (
        "1 pass per step; trains r (in + out + 1) parameters per module, stores r' (in + out)"
    )

    space: ClassVar[SearchSpace] = {
        **RATES,
        "gate_lr": LogRange(1e-3, 1e-1),
        "scale_with_lr": OneOf((True,)),  # or good values of xi would depend on gate_lr
        "xi": LogRange(0.05, 0.8),
    }

    r: int = 16
    lora_alpha: float = 32.0
    xi: float = from_part(Sparsify)
    xi_last: float | None = from_part(Sparsify)
    stages: int = from_part(Sparsify)
    xi_schedule: XiSchedule = from_part(Sparsify)
    first_stage: float = from_part(Sparsify)
    dense_share: float = from_part(Sparsify)
    threshold: Threshold = from_part(Sparsify)
    scale_with_lr: bool = from_part(Sparsify)
    gate_lr: float | None = from_part(Sparsify)
    gate_init: GateInit = from_part(GatedLoRA)
    l1_weight: float = from_part(L1, "weight", default=0.0)
    prune: bool = from_part(Sparsify)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range, or gates start at zero: with B = 0 they would
                have no gradient.
        """
        super().__post_init__()
        check_field(self, "gate_init", self.gate_init != "zeros", "ones or normal")

    def slots(self) -> Slots:
        """Gated ranks, the thresholds around the steps, and the loss term if asked for."""
        l1 = L1.from_fields(self, role=ROLE)
        return Slots(
            layer=GatedLoRA.from_fields(self, without=_MAPPED),
            penalty=l1 if self.l1_weight else None,
            procedure=Sparsify.from_fields(self),
            export=Export("LoRA adapter, a rank r' <= r for each module"),
        )
