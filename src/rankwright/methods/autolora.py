"""AutoLoRA: the rank of each layer from selection variables that are learned on held-out rows.

Zhang, Qiang, Somayajula, Xie, "AutoLoRA: Automatically Tuning Matrix Ranks in Low-Rank Adaptation
Based on Meta Learning", NAACL 2024, arXiv 2403.09113.

    y = x W^T + b + s ((x A^T) * w) B^T,    A (r, in),  B (out, r),  w = r softmax(alpha) (r,)

    lower:  V*(alpha) = argmin_V L_tr(V, alpha)      A, B and the task head, on D_tr
    upper:  min_alpha L_val(V*(alpha), alpha)        the selection variables, on D_val

After the search a layer keeps the ranks with w_j >= threshold * mean(w), at least one with a
threshold of 1, and A, B and head are trained anew on all rows as a plain LoRA of these ranks.
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
from rankwright.layers.gated import GatedLoRA, GateTotal
from rankwright.procedures import GateSearch
from rankwright.procedures.bilevel.bilevel import RetrainFrom
from rankwright.procedures.bilevel.hypergradient import Mode


@register_method
@dataclass(frozen=True, kw_only=True)
class AutoLoRA(Method):
    """LoRA whose ranks are selected by bilevel search.

    "Published" is the code at ruz048/AutoLoRA@25edb97, which searches and prints the ranks; the
    body of the paper could not be read.

    Attributes:
        gate_total: "rank" (ours): gates start at 1; "one" (published): at 1 / r, with an update
            that is r times smaller.
        hypergradient: "betty" is the published rule.
        val_fraction: 0.3 (published).
        upper_lr: 1e-2 (ours; published: 3e-4, which moves a logit by 0.03 in 100 steps).
        upper_betas: 0.5 and 0.999 (published).
        threshold: 1 (published, there for alpha itself, which starts at 1, instead of its softmax).
    """

    name: ClassVar[str] = "autolora"
    summary: ClassVar[str] = "LoRA with ranks selected on held-out rows, then retrained"
    reference: ClassVar[str] = "Zhang, Qiang, Somayajula, Xie, NAACL 2024, arXiv 2403.09113"
    cost: ClassVar[str] = (
        "3 passes per search step, 1 per retrain step; trains r (in + out + 1) parameters per "
        "module, stores r' (in + out)"
    )

    space: ClassVar[SearchSpace] = {
        **RATES,
        "r": OneOf((8, 16)),
        "upper_lr": LogRange(1e-3, 1e-1),
        "search_fraction": OneOf((0.2, 0.5)),
    }

    gate_total: GateTotal = from_part(GatedLoRA, default="rank")
    hypergradient: Mode = from_part(GateSearch)
    val_fraction: float = from_part(GateSearch, default=0.3)
    unroll_steps: int = from_part(GateSearch)
    upper_lr: float | None = from_part(GateSearch, default=1e-2)
    upper_weight_decay: float = from_part(GateSearch)
    upper_betas: tuple[float, float] | None = from_part(GateSearch, default=(0.5, 0.999))
    fd_radius: float | None = from_part(GateSearch)
    fd_share: float = from_part(GateSearch)
    xi: float | None = from_part(GateSearch)
    search_fraction: float = from_part(GateSearch)
    warmup: float = from_part(GateSearch)
    threshold: float = from_part(GateSearch)
    retrain_from: RetrainFrom = from_part(GateSearch)
    retrain_lr_ratio: float = from_part(GateSearch)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range, or there is one rank to select from.
        """
        super().__post_init__()
        check_field(self, "r", self.r >= 2, "at least 2 ranks to select from")

    def slots(self) -> Slots:
        """A softmax over the ranks of each layer, searched, thresholded and retrained."""
        return Slots(
            layer=GatedLoRA.from_fields(
                self,
                without=["gate_init", "gate_per", "temperature"],
                gate_map="softmax",
            ),
            procedure=GateSearch.from_fields(
                self,
                without=["upper", "retrain", "keep", "scope"],
                selects="ranks",
            ),
            export=Export("LoRA adapter, a rank r' <= r for each module"),
        )
