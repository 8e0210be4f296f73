"""DoRA with dynamic ranks: rank-1 components that compete for a budget while they train.

Mao et al., "DoRA: Enhancing Parameter-Efficient Fine-Tuning with Dynamic Rank Distribution", ACL
2024, arXiv 2405.17357. Weight-decomposed DoRA (arXiv 2402.09353) is another method: `dora`.

    y = x W^T + b + s ((x A^T) * c) B^T,    dW = s sum_i c_i b_i a_i^T,    s = lora_alpha / r'

A (r', in) and B (out, r') start Kaiming-uniform, c (r',) at zero. After every optimizer step

    q_i = |c_i b_i a_i^T|_F / (|B diag(c) A|_F + eps),      S_i <- beta S_i + (1 - beta) q_i

Between the first 15 % and the last 50 % of the steps c_i <- 0 for the lowest S_i of all layers, as
many as grow with the cube of the progress, to r ranks a layer on average. Until then the loss has a
penalty on the variance within the a_i and b_i.
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
from rankwright.penalties import Variance
from rankwright.procedures import Allocate


@register_method
@dataclass(frozen=True, kw_only=True)
class DoRADynamic(PrunedRanks):
    """LoRA whose ranks are divided among the layers by their share of each update.

    "Published" is the code at MIkumikumi0116/DoRA@235e21f; of the paper only abstract and
    introduction could be read.

    Attributes:
        lora_alpha: Numerator of s = lora_alpha / r'; 24, hence s = 2 with r' = 12 as LoRA's default
            (ours; published: 8). The scaling stays the same when ranks are pruned.
        start_rank: Rank of every layer at the start, r'; None for 1.5 r, rounded up (published).
        variance: The penalty ends with the pruning; 0 for none.
        every: Published: 100.
    """

    name: ClassVar[str] = "dora_dynamic"
    summary: ClassVar[str] = "LoRA whose ranks move to the layers that use them"
    reference: ClassVar[str] = "Mao et al., ACL 2024, arXiv 2405.17357"
    cost: ClassVar[str] = (
        "1 pass per step; trains r' (in + out + 1) parameters per module, stores r (in + out) on "
        "average"
    )

    space: ClassVar[SearchSpace] = {
        **LOW_RANK,
        "variance": OneOf((0.0, 0.1)),
        "warm": OneOf((0.05, 0.15, 0.3)),
    }

    warm: float = from_part(Allocate)
    cool: float = from_part(Allocate)
    every: int | None = from_part(Allocate)
    beta: float = from_part(Allocate)
    least_rank: int = from_part(Allocate)
    reference_rounding: bool = from_part(Allocate)
    variance: float = from_part(Variance, "weight")

    def slots(self) -> Slots:
        """Gates of zero on random components, the penalty, and the pruning."""
        variance = Variance.from_fields(
            self,
            warm=self.warm,
            cool=self.cool,
            reference_rounding=self.reference_rounding,
        )
        return Slots(
            layer=GatedLoRA(gate_init="zeros"),
            init=RandomFactors(),
            penalty=variance if self.variance else None,
            procedure=Allocate.from_fields(
                self,
                without=["score", "curve", "beta2"],
                keep=self.keep,
            ),
            export=Export("LoRA adapter of rank r on average"),
        )
