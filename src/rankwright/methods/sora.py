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
from typing import ClassVar, get_args

from rankwright.core.fields import check_field
from rankwright.core.method import Method, Slots
from rankwright.core.part import Export
from rankwright.core.proximal import Threshold
from rankwright.core.registry import register
from rankwright.core.search import RATES, LogRange, OneOf, SearchSpace
from rankwright.layers.gated import GatedLoRA, GateInit
from rankwright.penalties import L1
from rankwright.procedures.sparsify import ROLE, Sparsify, XiSchedule


@register
@dataclass(frozen=True, kw_only=True)
class SoRA(Method):
    """LoRA that finds the rank of each module.

    "Published" is the code at TsinghuaC3I/SoRA@c275ac2; the body of the paper could not be read.

    Attributes:
        r: Rank of every module at the start; 16 (published default; its scripts: 8).
        lora_alpha: Numerator of s; 32, hence s = 2 (published).
        xi: Threshold on the gates after every optimizer step; 3e-4 (published for STS-B). A gate
            from 1 reaches 0 in 1 / xi steps, so a shorter run needs a larger xi.
        xi_last: Threshold of the last of several stages; None for xi (published for RTE: 7e-4,
            from an xi of 0).
        stages: Number of stages; 1 (published for RTE: 7). Each has the learning-rate schedule anew
            (ours: with the published one the later stages have a learning rate of 0).
        xi_schedule: "linear", "log_linear" or "exp_linear" from xi to xi_last.
        first_stage: Share of the steps of the first of several stages; 0.36 (published for RTE).
        dense_share: Share of the first stage before the first threshold, for B to leave zero; 0.06
            (ours; published: 0).
        threshold: "soft" (paper), or "published": the code's rule, which closes gates below 2 xi.
        scale_with_lr: Threshold of xi times the present learning rate of the gates, for an xi of
            0.3 or so (an unused file of the published code).
        gate_lr: Learning rate of the gates; None for that of the factors (published).
        gate_init: "ones" (ours) or "normal" (published: N(0, 1), which favours some ranks).
        l1_weight: Weight of the mean |g| as a term of the loss beside the threshold; 0 (ours;
            published: 10 on STS-B, 1e-3 on RTE).
        prune: Drop closed ranks after the last step (ours; the published code only counts them).
    """

    name: ClassVar[str] = "sora"
    summary: ClassVar[str] = "LoRA with gated ranks; those whose gate goes to zero are dropped"
    reference: ClassVar[str] = "Ding et al., EMNLP 2023, arXiv 2311.11696"
    cost: ClassVar[str] = (
        "1 pass a step; trains r (in + out + 1) parameters a module, stores r' (in + out)"
    )

    space: ClassVar[SearchSpace] = {
        **RATES,
        "gate_lr": LogRange(1e-3, 1e-1),
        "scale_with_lr": OneOf((True,)),  # or good values of xi would depend on gate_lr
        "xi": LogRange(0.05, 0.8),
    }

    r: int = 16
    lora_alpha: float = 32.0
    xi: float = 3e-4
    xi_last: float | None = None
    stages: int = 1
    xi_schedule: XiSchedule = "linear"
    first_stage: float = 0.36
    dense_share: float = 0.06
    threshold: Threshold = "soft"
    scale_with_lr: bool = False
    gate_lr: float | None = None
    gate_init: GateInit = "ones"
    l1_weight: float = 0.0
    prune: bool = True

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range.
        """
        super().__post_init__()
        inits = get_args(GateInit)
        check_field(self, "gate_init", self.gate_init in inits, " or ".join(inits))
        check_field(self, "l1_weight", self.l1_weight >= 0, "a number of at least 0")
        self.slots()  # the procedure checks its fields

    def slots(self) -> Slots:
        """Gated ranks, the thresholds around the steps, and the loss term if asked for."""
        return Slots(
            layer=GatedLoRA(self.gate_init),
            penalty=L1(self.l1_weight, ROLE) if self.l1_weight else None,
            procedure=Sparsify.from_fields(self),
            export=Export("LoRA adapter, a rank r' <= r for each module"),
        )
