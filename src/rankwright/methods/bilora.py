"""BiLoRA: singular values learned on held-out rows, singular vectors on the others.

Qiang, Zhang, Xie, "BiLoRA: A Bi-level Optimization Framework for Overfitting-Resilient Low-Rank
Adaptation of Large Pre-trained Models", arXiv 2403.13037.

    y = x W^T + b + s ((x Q^T) * w) P^T,    P = B (out, r),  Q = A (r, in),  w = w(e) (r,)

    w = softmax(e), sigmoid(e) or e itself

    lower:  V*(e) = argmin_V L_tr(V, e) + g1 R1(V)       P, Q and the task head, on D_tr
    upper:  min_e L_val(V*(e), e) + g2 R2(e)             the values of all layers, on D_val

    R1 = sum over layers of |P^T P - I|_F^2 + |Q Q^T - I|_F^2
    R2 = sum of the binary entropies of w = sigmoid(e)

The hypergradient is that of one unrolled lower step (:mod:`rankwright.procedures.bilevel`). At the
start P = 0 and Q has orthonormal rows: the base model exactly. diag(w) Q is saved as A, so that the
adapter is a plain LoRA of rank r.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from rankwright.core.composite import sum_penalties
from rankwright.core.fields import check_field
from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.search_space import LOW_RANK, LogRange, OneOf, SearchSpace
from rankwright.core.slots import Penalty, Slots
from rankwright.inits import Orthonormal
from rankwright.layers.gated import GatedLoRA, GateMap
from rankwright.penalties import NearBinary, Orthogonality
from rankwright.procedures import Bilevel
from rankwright.procedures.bilevel.bilevel import RetrainFrom
from rankwright.procedures.bilevel.gate_search import GATES
from rankwright.procedures.bilevel.hypergradient import Mode

Parametrisation = Literal["softmax", "sigmoid", "real"]

_MAPS: dict[Parametrisation, GateMap] = {
    "softmax": "softmax",
    "sigmoid": "sigmoid",
    "real": "identity",
}


@register_method
@dataclass(frozen=True, kw_only=True)
class BiLoRA(Method):
    """LoRA in the form of a singular value decomposition, its values learned on held-out rows.

    "Published" is the paper as its reviews quote it; its body could not be read, and no code was
    found. The start, `scale_by_rank` and the weights of the penalties are ours.

    Attributes:
        parametrisation: Values of the ranks: "softmax" (published as the best): positive and of a
            fixed sum, so that ranks compete; "sigmoid": in (0, 1); "real": of any sign, starting
            at 1.
        scale_by_rank: Whether the values of "softmax" sum to r instead of 1, so that they start at
            1 and an update is as large as LoRA's (ours).
        near_binary: Factor g2 of R2 in the loss of the upper level, with "sigmoid" only; 0 for
            none.
        upper_lr: 1e-2 (ours): the values are logits, of the order of 1.
        retrain: False (published): no retraining with the values fixed.
    """

    name: ClassVar[str] = "bilora"
    summary: ClassVar[str] = "LoRA with singular values learned on held-out rows"
    reference: ClassVar[str] = "Qiang, Zhang, Xie, arXiv 2403.13037"
    cost: ClassVar[str] = "3 passes per step; trains r (in + out + 1) parameters per module"

    space: ClassVar[SearchSpace] = {
        **LOW_RANK,
        "upper_lr": LogRange(1e-3, 1e-1),
        "unroll_steps": OneOf((1, 4)),
    }

    parametrisation: Parametrisation = "softmax"
    scale_by_rank: bool = True
    orthogonality: float = from_part(Orthogonality, "weight")
    near_binary: float = 0.0
    hypergradient: Mode = from_part(Bilevel)
    val_fraction: float = from_part(Bilevel)
    unroll_steps: int = from_part(Bilevel)
    upper_lr: float | None = from_part(Bilevel, default=1e-2)
    upper_weight_decay: float = from_part(Bilevel)
    upper_betas: tuple[float, float] | None = from_part(Bilevel)
    fd_radius: float | None = from_part(Bilevel)
    fd_share: float = from_part(Bilevel)
    xi: float | None = from_part(Bilevel)
    retrain: bool = from_part(Bilevel, default=False)
    search_fraction: float = from_part(Bilevel)
    retrain_from: RetrainFrom = from_part(Bilevel)
    retrain_lr_ratio: float = from_part(Bilevel)
    warmup: float = from_part(Bilevel)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range, or has no effect with this parametrisation.
        """
        super().__post_init__()
        known, softmax = get_args(Parametrisation), self.parametrisation == "softmax"
        for name, holds, expected in (
            ("parametrisation", self.parametrisation in known, " or ".join(known)),
            ("r", not softmax or self.r >= 2, 'at least 2 with "softmax", which is 1 for one rank'),
            ("near_binary", self.near_binary >= 0, "a number of at least 0"),
            (
                "near_binary",
                not self.near_binary or self.parametrisation == "sigmoid",
                f'0 with "{self.parametrisation}": only "sigmoid" has values between 0 and 1 that '
                "do not compete",
            ),
        ):
            check_field(self, name, holds, expected)

    def slots(self) -> Slots:
        """Gated ranks, orthonormal Q, both penalties, and the gates as the upper level."""
        real = self.parametrisation == "real"
        orthogonality = Orthogonality.from_fields(self, without=["form"])
        penalties: list[Penalty] = [orthogonality] if self.orthogonality else []
        if self.near_binary:
            penalties.append(NearBinary(self.near_binary))
        return Slots(
            layer=GatedLoRA(
                gate_init="ones" if real else "zeros",
                gate_map=_MAPS.get(self.parametrisation, "identity"),
                gate_total="rank" if self.scale_by_rank else "one",
            ),
            init=Orthonormal(),
            penalty=sum_penalties(tuple(penalties)),
            procedure=Bilevel.from_fields(self, upper=GATES),
        )
