"""AdaLoRA: singular value triplets that compete for a budget of ranks by their importance.

Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", ICLR 2023,
arXiv 2303.10512.

    y = x W^T + b + s ((x Q^T) * e) P^T,    P = B (out, r'),  Q = A (r', in),  s = lora_alpha / r'

P and Q start gaussian, the singular values e (r',) at zero. The loss has a penalty

    R = mean over factors of |P^T P - I|_F and |Q Q^T - I|_F

After every optimizer step, for each entry p of P, Q and e with I = |p dL/dp|,

    Ibar <- beta1 Ibar + (1 - beta1) I,     Ubar <- beta2 Ubar + (1 - beta2) |I - Ibar|
    S_i = (Ibar Ubar)(e_i) + mean_j (Ibar Ubar)(P_ji) + mean_j (Ibar Ubar)(Q_ij)

and e_i <- 0 for the lowest S_i of all layers. What is left falls from r' to r ranks a layer on
average as (1 - u)^3, u the progress of the pruning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.core.export import Export
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.search_space import LOW_RANK, OneOf, SearchSpace
from rankwright.core.slots import Slots
from rankwright.inits import RandomFactors
from rankwright.layers.gated import GatedLoRA
from rankwright.methods._pruned_ranks import PrunedRanks
from rankwright.penalties import Orthogonality
from rankwright.procedures import Allocate


@register_method
@dataclass(frozen=True, kw_only=True)
class AdaLoRA(PrunedRanks):
    """LoRA in the form of a singular value decomposition, whose triplets are pruned.

    "Published" is the paper and PEFT's AdaLoRA. The phases are shares of the run here, where PEFT
    asks for step numbers (`tinit`, `tfinal`, `deltaT`); their values are ours.

    Attributes:
        r: PEFT's `target_r`.
        lora_alpha: Numerator of s = lora_alpha / r'; 24, hence s = 2 with r' = 12 as LoRA's default
            (ours). The scaling stays the same when ranks are pruned (published).
        start_rank: Rank of every layer at the start, r' (PEFT's `init_r`); None for 1.5 r, rounded
            up (published).
        orthogonality: 0.5 (published: 0.1 to 0.5), of the mean norm.
        warm: 0.1 (ours).
        cool: 0.3 (ours).
        beta: beta1; 0.85 (published).
    """

    name: ClassVar[str] = "adalora"
    summary: ClassVar[str] = "LoRA as singular triplets; the least important are pruned"
    reference: ClassVar[str] = "Zhang et al., ICLR 2023, arXiv 2303.10512"
    cost: ClassVar[str] = (
        "1 pass per step; trains r' (in + out + 1) parameters per module and keeps two averages of "
        "each, stores r (in + out) on average"
    )

    space: ClassVar[SearchSpace] = {
        **LOW_RANK,
        "orthogonality": OneOf((0.1, 0.5)),
        "warm": OneOf((0.05, 0.1, 0.3)),
    }

    warm: float = from_part(Allocate, default=0.1)
    cool: float = from_part(Allocate, default=0.3)
    every: int | None = from_part(Allocate)
    beta: float = from_part(Allocate, default=0.85)
    beta2: float = from_part(Allocate)
    least_rank: int = from_part(Allocate)
    orthogonality: float = from_part(Orthogonality, "weight", default=0.5)

    def slots(self) -> Slots:
        """Singular values of zero on random vectors, the penalty, and the pruning."""
        orthogonality = Orthogonality.from_fields(self, form="norm")
        return Slots(
            layer=GatedLoRA(gate_init="zeros"),
            init=RandomFactors("gaussian"),
            penalty=orthogonality if self.orthogonality else None,
            procedure=Allocate.from_fields(
                self,
                without=["reference_rounding"],
                keep=self.keep,
                score="sensitivity",
                curve="cubic_kept",
            ),
            export=Export("LoRA adapter of rank r on average"),
        )
