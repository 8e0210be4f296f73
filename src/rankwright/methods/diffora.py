"""DiffoRA: which modules get a LoRA at all, by a differentiable choice on held-out rows.

Jiang, Wang, Yuan, "DiffoRA: Enabling Parameter-Efficient Fine-Tuning via Differential Module
Selection", arXiv 2502.08905.

    y = x W^T + b + g s (x A^T) B^T,    g = sigmoid(alpha), one number a module

    lower:  V*(alpha) = argmin_V L_tr(V, alpha)      A, B and the task head, on D_tr
    upper:  min_alpha L_val(V*(alpha), alpha)        one alpha for each candidate, on D_val

    Gamma_lj = 1 for the ceil(keep N) modules of block l with the largest alpha_lj, else 0

After the search g = Gamma, and A, B and head are trained anew on all rows. The adapter is a plain
LoRA on the modules with Gamma = 1, and its configuration names exactly these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.core.export import Export
from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.search_space import LOW_RANK, OneOf, SearchSpace
from rankwright.core.slots import Slots
from rankwright.layers.gated import GatedLoRA
from rankwright.procedures import GateSearch
from rankwright.procedures.bilevel.bilevel import RetrainFrom
from rankwright.procedures.bilevel.gate_search import Scope
from rankwright.procedures.bilevel.hypergradient import Mode


@register_method
@dataclass(frozen=True, kw_only=True)
class DiffoRA(Method):
    """LoRA on modules that are chosen by bilevel search.

    The paper's abstracts and opening were read; its method section was not, and no code was found.
    The relaxation by a sigmoid, the defaults and the warm-up are ours. Its "weight sharing" of
    modules that are not chosen is left out: they get no LoRA.

    Attributes:
        upper_lr: 1e-2 (ours).
        upper_betas: 0.5 and 0.999 (ours, as in DARTS).
        keep: 0.5 (ours; the paper has such a ratio, its value could not be read).
    """

    name: ClassVar[str] = "diffora"
    summary: ClassVar[str] = "LoRA on the modules chosen on held-out rows, then retrained"
    reference: ClassVar[str] = "Jiang, Wang, Yuan, arXiv 2502.08905"
    cost: ClassVar[str] = (
        "3 passes per search step, 1 per retrain step; trains r (in + out) + 1 parameters per "
        "candidate, stores r (in + out) of those kept"
    )

    space: ClassVar[SearchSpace] = {
        **LOW_RANK,
        "keep": OneOf((0.25, 0.5, 0.75)),
        "scope": OneOf(("block", "model")),
    }

    hypergradient: Mode = from_part(GateSearch)
    val_fraction: float = from_part(GateSearch)
    unroll_steps: int = from_part(GateSearch)
    upper_lr: float | None = from_part(GateSearch, default=1e-2)
    upper_weight_decay: float = from_part(GateSearch)
    upper_betas: tuple[float, float] | None = from_part(GateSearch, default=(0.5, 0.999))
    fd_radius: float | None = from_part(GateSearch)
    fd_share: float = from_part(GateSearch)
    xi: float | None = from_part(GateSearch)
    search_fraction: float = from_part(GateSearch)
    warmup: float = from_part(GateSearch)
    keep: float = from_part(GateSearch)
    scope: Scope = from_part(GateSearch)
    retrain_from: RetrainFrom = from_part(GateSearch)
    retrain_lr_ratio: float = from_part(GateSearch)

    def slots(self) -> Slots:
        """One sigmoid gate a module, searched; the modules it chooses, retrained."""
        return Slots(
            layer=GatedLoRA(gate_init="zeros", gate_map="sigmoid", gate_per="layer"),
            procedure=GateSearch.from_fields(
                self,
                without=["upper", "retrain", "threshold"],
                selects="layers",
            ),
            export=Export("LoRA adapter of rank r on the chosen modules"),
        )
