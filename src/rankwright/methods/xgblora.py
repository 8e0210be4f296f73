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

from rankwright.core.method import Method, Slots
from rankwright.core.part import Export
from rankwright.core.registry import register
from rankwright.core.search import RATES, LogRange, OneOf, SearchSpace
from rankwright.layers.stacked import Side, StackedLoRA
from rankwright.procedures.chain import Chain
from rankwright.procedures.frozen import FrozenDraw


@register
@dataclass(frozen=True, kw_only=True)
class XGBLoRA(Method):
    """Boosted rank-1 adapters.

    The body of the paper could not be read: "paper" below means its abstract or what its public
    reviews quote; "ours" is our choice where its value is unknown.

    Attributes:
        r: Rank of a booster; 1 (paper).
        lora_alpha: Numerator of s; 2, hence s = 2 (ours). Keep s, not lora_alpha, when changing r.
        rounds: Boosters in the chain, T. None: 32, or fewer with at least 20 steps each (ours).
        steps_per_round: Optimizer steps of a round, kappa, instead of `rounds` (paper: ablated,
            value unknown).
        layers_per_round: L_s: a number of layers, a share of them rounded up, or None for all.
            1/3 (ours; the paper's best for a 32-layer model is 11).
        selection: "uniform" (paper): all subsets equally likely; "round_robin" (ours): shuffled
            turns, no layer is left out for long; "blocks" (ours): turns of neighbouring layers;
            "top_heavy" (ours): upper layers more often. The last two save memory and time.
        shrinkage: Factor on a booster when it is absorbed; 1 (paper).
        reset_optimizer: Forget moments and step counts of absorbed boosters; True (ours).
        lr_policy: "global": one schedule over all rounds (ours); "restart"; "rewarm".
        rewarm_steps: Length of the warm-up of "rewarm" in optimizer steps.
        frozen: Train one factor only and draw the other, as RAC-LoRA does: "A" or "B" frozen.
        frozen_draw: How it is drawn: "gaussian", "orthonormal" or "unbiased".
        mode: What happens to a long history: "history", "fold" or "recompress" (ours).
        rank_cap: Finished ranks of a module beyond which `mode` acts; 64 (ours).
    """

    name: ClassVar[str] = "xgblora"
    summary: ClassVar[str] = "adds up rank-1 boosters, each trained briefly on random layers"
    reference: ClassVar[str] = "arXiv 2410.19694"
    cost: ClassVar[str] = (
        "1 pass a step; trains r (in + out) parameters a module of L_s layers, stores T L_s / L "
        "times as many a module"
    )

    space: ClassVar[SearchSpace] = {
        **RATES,
        "learning_rate": LogRange(1e-3, 1e-2),  # a booster has the steps of one round only
        "rounds": OneOf((4, 8, 16)),
        "layers_per_round": OneOf((1 / 3, 2 / 3, None)),
    }

    r: int = 1
    lora_alpha: float = 2.0
    rounds: int | None = None
    steps_per_round: int | None = None
    layers_per_round: float | int | None = 1 / 3
    selection: Literal["uniform", "round_robin", "blocks", "top_heavy"] = "uniform"
    shrinkage: float = 1.0
    reset_optimizer: bool = True
    lr_policy: Literal["global", "restart", "rewarm"] = "global"
    rewarm_steps: int = 0
    frozen: Side | None = None
    frozen_draw: FrozenDraw = "gaussian"
    mode: Literal["history", "fold", "recompress"] = "history"
    rank_cap: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slots()  # the chain checks its fields

    def slots(self) -> Slots:
        """Stacked factors, and the chain around the steps."""
        return Slots(
            layer=StackedLoRA(),
            procedure=Chain.from_fields(self, least_rank=4),  # ours: a warning is logged below it
            export=Export("LoRA adapter of rank <= r T, a rank for each module"),
        )
