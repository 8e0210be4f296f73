"""XGBLoRA: a boosted chain of rank-1 adapters, each trained a few steps on a few layers.

"Less is More: Extreme Gradient Boost Rank-1 Adaption for Efficient Finetuning of
LLMs", arXiv 2410.19694.

Round t = 1..T trains on L_s of the L layers, drawn at random, one booster a module:

    y = x W_(t-1)^T + b + s (x A_t^T) B_t^T,    s = lora_alpha / r,    A_t (r, in),  B_t (out, r)

for kappa steps from a fresh A_t and B_t = 0, with fresh moments; then

    W_t = W_(t-1) + shrinkage * s * B_t A_t.

W_0 is never written: the finished boosters are a frozen history, and the result is a plain LoRA
of rank at most r times the rounds that selected the module. One round on all layers is LoRA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rankwright.core.export import Export
from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.search_space import RATES, LogRange, OneOf, SearchSpace
from rankwright.core.slots import Slots
from rankwright.layers.stacked.layer import Side, StackedLoRA
from rankwright.procedures.chain.chain import Chain
from rankwright.procedures.chain.frozen import FrozenDraw
from rankwright.procedures.chain.rounds import LrPolicy


@register_method
@dataclass(frozen=True, kw_only=True)
class XGBLoRA(Method):
    """Boosted rank-1 adapters.

    The body of the paper could not be read: "paper" below means its abstract or what its public
    reviews quote; "ours" is our choice where its value is unknown.

    Attributes:
        r: Rank of a booster; 1 (paper).
        lora_alpha: Numerator of s; 2, hence s = 2 (ours). Keep s, not lora_alpha, when changing r.
        rounds: T in the paper.
        steps_per_round: kappa in the paper, ablated there; its value is unknown.
        layers_per_round: L_s in the paper; 1/3 (ours; paper: 11 is best for a 32-layer model).
        selection: "uniform" (paper); the others are ours, and "blocks" and "top_heavy" save memory
            and time.
        shrinkage: 1 (paper).
    """

    name: ClassVar[str] = "xgblora"
    summary: ClassVar[str] = "adds up rank-1 boosters, each trained briefly on random layers"
    reference: ClassVar[str] = "arXiv 2410.19694"
    cost: ClassVar[str] = (
        "1 pass per step; trains r (in + out) parameters per module of L_s layers, stores "
        "T L_s / L times as many per module"
    )

    space: ClassVar[SearchSpace] = {
        **RATES,
        "learning_rate": LogRange(1e-3, 1e-2),  # a booster has the steps of one round only
        "rounds": OneOf((4, 8, 16)),
        "layers_per_round": OneOf((1 / 3, 2 / 3, None)),
    }

    r: int = 1
    lora_alpha: float = 2.0
    rounds: int | None = from_part(Chain)
    steps_per_round: int | None = from_part(Chain)
    layers_per_round: float | int | None = from_part(Chain, default=1 / 3)
    selection: Literal["uniform", "round_robin", "blocks", "top_heavy"] = from_part(Chain)
    shrinkage: float = from_part(Chain)
    reset_optimizer: bool = from_part(Chain)
    lr_policy: LrPolicy = from_part(Chain)
    rewarm_steps: int = from_part(Chain)
    frozen: Side | None = from_part(Chain)
    frozen_draw: FrozenDraw = from_part(Chain)
    mode: Literal["history", "fold", "recompress"] = from_part(Chain)
    rank_cap: int = from_part(Chain)

    def slots(self) -> Slots:
        """Stacked factors, and the chain around the steps."""
        return Slots(
            layer=StackedLoRA(),
            procedure=Chain.from_fields(
                self,
                least_rank=4,  # ours: a warning is logged below it
                without=("epochs_per_round", "ranks", "reset_head", "projected", "default_rounds"),
            ),
            export=Export("LoRA adapter of rank <= r T, a rank for each module"),
        )
