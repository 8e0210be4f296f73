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
from typing import ClassVar, get_args

from rankwright.core.fields import check_field, none_or_at_least
from rankwright.core.method import Method, Slots
from rankwright.core.part import Export
from rankwright.core.registry import register
from rankwright.core.search import LOW_RANK, OneOf, SearchSpace
from rankwright.layers import Dora
from rankwright.layers.dora import NormGrad
from rankwright.penalties import Gram
from rankwright.penalties.gram import GramForm
from rankwright.procedures import Bilevel
from rankwright.procedures.bilevel import RetrainFrom
from rankwright.procedures.hypergradient import Mode


@register
@dataclass(frozen=True, kw_only=True)
class BiDoRA(Method):
    """Magnitudes by bilevel search, directions retrained under them.

    "Published" is the code at t2ance/BiDoRA@e7922af. Steps are optimizer steps.

    Attributes:
        hypergradient: "fd_forward" (3 passes a step, ours), "fd_central" (4), "exact",
            "first_order" (2) or "betty" (4, published).
        val_fraction: Share of the rows that D_val takes (published: 0.2).
        unroll_steps: Lower steps an upper step (published: 1; 4 when time matters).
        upper_lr: Learning rate of m; None for that of V (published: the same).
        upper_weight_decay: Decay of m (published: 0 to 1; ours 0, it would shrink the layer).
        upper_betas: Adam's betas of m; None for those of V (published: 0.9 and 0.98 for both).
        gram_weight: gamma (published: 1e-5); 0 for no penalty.
        gram_form: "norm" (published) or "squared".
        gram_rows: Output rows of a module drawn for R in each step (ours, for the price of a step);
            None for all (published), which keeps 2 out^2 numbers a module.
        gram_modules: Modules drawn for R in each step (ours); None for all (published).
        norm_grad: "full" (published) or "detached", the latter with "exact" and "first_order" only.
        fd_radius: R0; None for 0.01, 0.1 in half precision (published: 0.01).
        fd_share: Share of the lower batch's rows on which the finite difference is taken (ours, for
            2 + 2 fd_share passes a step: 2.5 with a quarter); 1 for all (published).
        xi: Length of the unrolled step; None for the present learning rate of V.
        retrain: Whether to retrain (published: in some of the scripts).
        search_fraction: Share of the steps that goes to search, if `retrain`.
        retrain_from: "snapshot" of the start (published) or "warm".
        retrain_lr_ratio: Learning rate of the retraining over that of the search.
    """

    name: ClassVar[str] = "bidora"
    summary: ClassVar[str] = "DoRA with the magnitudes learned on held-out rows, then retrained"
    reference: ClassVar[str] = "Qin, Zhang, Xie, TMLR 2025, arXiv 2410.09758"
    cost: ClassVar[str] = "3 passes a search step, 1 a retrain step; r (in + out) + out parameters"

    space: ClassVar[SearchSpace] = {
        **LOW_RANK,
        "unroll_steps": OneOf((1, 4)),
        "search_fraction": OneOf((0.2, 0.5)),
        "retrain_from": OneOf(("snapshot", "warm")),
    }

    norm_grad: NormGrad = "full"
    hypergradient: Mode = "fd_forward"
    val_fraction: float = 0.2
    unroll_steps: int = 1
    upper_lr: float | None = None
    upper_weight_decay: float = 0.0
    upper_betas: tuple[float, float] | None = None
    gram_weight: float = 1e-5
    gram_form: GramForm = "norm"
    gram_rows: int | None = 128
    gram_modules: int | None = 4
    fd_radius: float | None = None
    fd_share: float = 1.0
    xi: float | None = None
    retrain: bool = True
    search_fraction: float = 0.5
    retrain_from: RetrainFrom = "snapshot"
    retrain_lr_ratio: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range, or the norm is detached in a mode whose finite
                difference would see it move.
        """
        super().__post_init__()
        for name, holds, expected in (
            ("gram_weight", self.gram_weight >= 0, "a number of at least 0"),
            ("gram_form", self.gram_form in get_args(GramForm), "norm or squared"),
            ("gram_rows", none_or_at_least(self.gram_rows, 2), "at least 2, or None"),
            ("gram_modules", none_or_at_least(self.gram_modules, 1), "at least 1, or None"),
            ("norm_grad", self.norm_grad in get_args(NormGrad), "full or detached"),
        ):
            check_field(self, name, holds, expected)
        self.made_of()  # the parts check the fields that are theirs

    def slots(self) -> Slots:
        """DoRA's layer with its full gradient, the Gram penalty, and bilevel training."""
        return Slots(
            layer=Dora(self.norm_grad),
            penalty=Gram(self.gram_weight, self.gram_form, self.gram_rows, self.gram_modules),
            procedure=Bilevel.from_fields(self),
            export=Export("DoRA adapter of rank r"),
        )
