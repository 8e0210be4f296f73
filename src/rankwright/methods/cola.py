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

from rankwright.core.method import Method, Slots
from rankwright.core.part import Export
from rankwright.core.registry import register
from rankwright.core.search import LOW_RANK, OneOf, SearchSpace
from rankwright.layers.stacked import Side, StackedLoRA
from rankwright.procedures.chain import Chain
from rankwright.procedures.frozen import FrozenDraw


@register
@dataclass(frozen=True, kw_only=True)
class COLA(Method):
    """A chain of LoRAs; a link is a round of the chain.

    The body of the paper could not be read: "paper" below means its abstract or two summaries.

    Attributes:
        r: Rank of a link; the largest of `ranks` where these are given.
        rounds: Links in the chain, M, of equal length. None: as many as `ranks`, else 3 (paper:
            1 to 3, from memory), or fewer with at least 20 steps each (ours).
        steps_per_round: Optimizer steps of a link instead.
        epochs_per_round: Passes over the training rows of a link instead.
        ranks: r_i of every link, for a rank that steps down (paper: an ablation). s stays
            lora_alpha / r.
        reset_optimizer: Forget moments and step counts of the finished link; True (paper).
        reset_head: Forget those of the head and of `modules_to_save` too; False (ours).
        lr_policy: "restart": the schedule anew in every link (paper, from memory); "global": one
            over all links; "rewarm": global, with a warm-up in every link but the first.
        rewarm_steps: Length of the warm-up of "rewarm" in optimizer steps.
        frozen: Train one factor only and draw the other, as RAC-LoRA does: "A" or "B" frozen.
        frozen_draw: How it is drawn: "gaussian", "orthonormal" or "unbiased".
        mode: What happens to a long history: "history", "fold" or "recompress" (ours).
        rank_cap: Finished ranks of a module beyond which `mode` acts; 64 (ours).
    """

    name: ClassVar[str] = "cola"
    summary: ClassVar[str] = "trains a few LoRAs one after the other, each on the residual"
    reference: ClassVar[str] = "Xia, Qin, Hazan, arXiv 2401.04151"
    cost: ClassVar[str] = (
        "1 pass a step; trains r (in + out) parameters a module, stores those of all links"
    )

    space: ClassVar[SearchSpace] = {**LOW_RANK, "rounds": OneOf((2, 3, 5))}

    rounds: int | None = None
    steps_per_round: int | None = None
    epochs_per_round: float | None = None
    ranks: list[int] | None = None
    reset_optimizer: bool = True
    reset_head: bool = False
    lr_policy: Literal["global", "restart", "rewarm"] = "restart"
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
            procedure=Chain.from_fields(self, default_rounds=3),
            export=Export("LoRA adapter of rank <= the sum over the links"),
        )
