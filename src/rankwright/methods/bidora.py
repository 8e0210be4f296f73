"""BiDoRA: DoRA whose magnitudes are learned on held-out rows, its directions on the others.

Qin, Zhang, Xie, "BiDoRA: Bi-level Optimization-Based Weight-Decomposed Low-Rank Adaptation", TMLR
2025, arXiv 2410.09758.

    V = W + s B A,    n = |V| row by row (differentiated through),    W' = diag(m / n) V

    lower:  V*(m) = argmin_V L_tr(V, m) + gamma R(V)        A, B and the task head, on D_tr
    upper:  min_m L_val(V*(m), m)                           the magnitudes, on D_val

    R = mean over modules of |D D^T - I|_F,    D = diag(1 / n) V

Search: after every `unroll_steps` lower steps, one upper step along the hypergradient of one
unrolled lower step V1 = V - xi u(g). With v = grad_V L_val(V1, m), J = du/dg and w = xi J v:

    h = grad_m L_val(V1, m) - [grad_m L_tr(V + eps w, m) - grad_m L_tr(V, m)] / eps,  eps = R0 / |w|

Retrain: A, B and head from the start again on all rows, m* fixed. The result is a DoRA adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.core.export import DoraExport
from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.search_space import LOW_RANK, OneOf, SearchSpace
from rankwright.core.slots import Slots
from rankwright.layers import Dora
from rankwright.layers.dora import NormGrad
from rankwright.penalties import Gram
from rankwright.penalties.gram import GramForm
from rankwright.procedures import Bilevel
from rankwright.procedures.bilevel.bilevel import RetrainFrom
from rankwright.procedures.bilevel.hypergradient import Mode


@register_method
@dataclass(frozen=True, kw_only=True)
class BiDoRA(Method):
    """Magnitudes by bilevel search, directions retrained under them.

    "Published" is the code at t2ance/BiDoRA@e7922af. Steps are optimizer steps.

    Attributes:
        norm_grad: "detached" requires hypergradient "exact" or "first_order".
    """

    name: ClassVar[str] = "bidora"
    summary: ClassVar[str] = "DoRA with the magnitudes learned on held-out rows, then retrained"
    reference: ClassVar[str] = "Qin, Zhang, Xie, TMLR 2025, arXiv 2410.09758"
    cost: ClassVar[str] = (
        "3 passes per search step, 1 per retrain step; r (in + out) + out parameters"
    )

    space: ClassVar[SearchSpace] = {
        **LOW_RANK,
        "unroll_steps": OneOf((1, 4)),
        "search_fraction": OneOf((0.2, 0.5)),
        "retrain_from": OneOf(("snapshot", "warm")),
    }

    norm_grad: NormGrad = from_part(Dora, default="full")
    hypergradient: Mode = from_part(Bilevel)
    val_fraction: float = from_part(Bilevel)
    unroll_steps: int = from_part(Bilevel)
    upper_lr: float | None = from_part(Bilevel)
    upper_weight_decay: float = from_part(Bilevel)
    upper_betas: tuple[float, float] | None = from_part(Bilevel)
    gram_weight: float = from_part(Gram, "weight")
    gram_form: GramForm = from_part(Gram, "form")
    gram_rows: int | None = from_part(Gram, "rows")
    gram_modules: int | None = from_part(Gram, "modules")
    fd_radius: float | None = from_part(Bilevel)
    fd_share: float = from_part(Bilevel)
    xi: float | None = from_part(Bilevel)
    retrain: bool = from_part(Bilevel)
    search_fraction: float = from_part(Bilevel)
    retrain_from: RetrainFrom = from_part(Bilevel)
    retrain_lr_ratio: float = from_part(Bilevel)
    warmup: float = from_part(Bilevel)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range, or the norm is detached in a mode whose finite
                difference would see it move.
        """
        super().__post_init__()
        self.made_of()  # the parts check each other

    def slots(self) -> Slots:
        """DoRA's layer with its full gradient, the Gram penalty, and bilevel training."""
        return Slots(
            layer=Dora.from_fields(self),
            penalty=Gram.from_fields(self),
            procedure=Bilevel.from_fields(self, without=["upper"]),
            export=DoraExport(),
        )
