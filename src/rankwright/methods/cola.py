"""COLA: train a LoRA, add it to the frozen weight, start a new one on what is left, M times.

Xia, Qin, Hazan, "Chain of LoRA: Efficient Fine-tuning of Language Models via Residual Learning",
arXiv 2401.04151.

Link i = 1..M of a module, with W_0 the pretrained weight (out, in):

    min over A_i, B_i of  L(W_(i-1) + s B_i A_i),    A_i (r_i, in) drawn,  B_i (out, r_i) = 0 first
    W_i = W_(i-1) + s B_i A_i,                       s = lora_alpha / r in every link

Every link starts at the function that the one before ended at, with a new optimizer and a new
schedule. W_0 is never written: the finished links are a frozen history, and the result is a plain
LoRA of rank r_1 + ... + r_M. One link is LoRA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rankwright.core.export import Export
from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.search_space import LOW_RANK, OneOf, SearchSpace
from rankwright.core.slots import Slots
from rankwright.layers.stacked.layer import Side, StackedLoRA
from rankwright.procedures.chain.chain import Chain
from rankwright.procedures.chain.frozen import FrozenDraw
from rankwright.procedures.chain.rounds import LrPolicy


@register_method
@dataclass(frozen=True, kw_only=True)
class COLA(Method):
    """A chain of LoRAs; the paper calls a round a link.

    The body of the paper could not be read: "paper" below means its abstract or two summaries.

    Attributes:
        r: Rank of a link; the largest of `ranks` where these are given.
        rounds: M in the paper; COLA's own number is 3 (paper: 1 to 3, from memory).
        ranks: r_i in the paper, an ablation with decreasing ranks.
        reset_optimizer: True (paper).
        lr_policy: "restart" (paper, from memory).
    """

    name: ClassVar[str] = "cola"
    summary: ClassVar[str] = "trains a few LoRAs one after the other, each on the residual"
    reference: ClassVar[str] = "Xia, Qin, Hazan, arXiv 2401.04151"
    cost: ClassVar[str] = (
        "1 pass per step; trains r (in + out) parameters per module, stores those of all links"
    )

    space: ClassVar[SearchSpace] = {**LOW_RANK, "rounds": OneOf((2, 3, 5))}

    rounds: int | None = from_part(Chain)
    steps_per_round: int | None = from_part(Chain)
    epochs_per_round: float | None = from_part(Chain)
    ranks: list[int] | None = from_part(Chain)
    reset_optimizer: bool = from_part(Chain)
    reset_head: bool = from_part(Chain)
    lr_policy: LrPolicy = from_part(Chain, default="restart")
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
                default_rounds=3,
                without=("layers_per_round", "selection", "shrinkage", "projected", "least_rank"),
            ),
            export=Export("LoRA adapter of rank <= the sum over the links"),
        )
