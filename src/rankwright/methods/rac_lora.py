"""RAC-LoRA: a chain of LoRAs; in each one factor is drawn and frozen, the other trained from zero.

Malinovsky et al., "Randomized Asymmetric Chain of LoRA: The First Meaningful Theoretical Framework
for Low-Rank Adaptation", arXiv 2410.08305.

Link t = 1..T of a module with weight W_t (out, in), s = lora_alpha / r:

    A frozen:  W_(t+1) = W_t + s B_t A_t,    A_t (r, in) drawn,   B_t (out, r) trained from 0
    B frozen:  W_(t+1) = W_t + s B_t A_t,    B_t (out, r) drawn,  A_t (r, in) trained from 0

The loss is smooth in the free factor, so gradient methods converge. The step that is analysed, with
G = dL/dW and H the projection on the frozen factor's rows (columns), is

    A frozen:  W_(t+1) = W_t - gamma G H,    H = A^T (A A^T)^-1 A,    E[H] >= lambda_min I
    B frozen:  W_(t+1) = W_t - gamma H G,    H = B (B^T B)^-1 B^T

Any other solver may take more steps in a link. One link is LoRA with a frozen factor.
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
class RACLoRA(Method):
    """A chain of LoRAs, half of each random; a link is a round of the chain.

    The body of the paper could not be read: "paper" below means its abstract or what its reviews
    quote.

    Attributes:
        lora_alpha: Numerator of s; 8, hence s = 1 with the scaled draw (ours).
        frozen: The factor that is drawn: "A" (ours) or "B"; the paper reports both. The other one
            is trained: r * out numbers with "A", r * in with "B".
        frozen_draw: "gaussian" (paper), here with variance 1 / in (1 / out); "orthonormal";
            "unbiased": E[A^T A] = I (E[B B^T] = I).
        projected: Precondition the free factor's gradient so that one SGD step a link is the
            analysed step of size gamma = lr; False (the paper trains with AdamW).
        rounds: Links in the chain, T, of equal length. None: as many as `ranks`, else 10 (paper,
            on GLUE), or fewer with at least 20 steps each (ours).
        steps_per_round: Optimizer steps of a link instead.
        epochs_per_round: Passes over the training rows of a link instead.
        ranks: Rank of every link; None for r always.
        reset_optimizer: Forget moments and step counts of the finished link; True (paper).
        reset_head: Forget those of the head and of `modules_to_save` too; False (ours).
        lr_policy: "global": one schedule over all links (ours); "restart"; "rewarm".
        rewarm_steps: Length of the warm-up of "rewarm" in optimizer steps.
        mode: What happens to a long history: "history", "fold" or "recompress" (ours).
        rank_cap: Finished ranks of a module beyond which `mode` acts; 64 (ours).
    """

    name: ClassVar[str] = "rac_lora"
    summary: ClassVar[str] = "a chain of LoRAs with one factor drawn and frozen, the other trained"
    reference: ClassVar[str] = "Malinovsky et al., arXiv 2410.08305"
    cost: ClassVar[str] = (
        "1 pass a step; trains r out (or r in) parameters a module, stores the factors of T links"
    )

    space: ClassVar[SearchSpace] = {
        **LOW_RANK,
        "frozen": OneOf(("A", "B")),
        "rounds": OneOf((2, 5, 10)),
    }

    lora_alpha: float = 8.0
    frozen: Side = "A"
    frozen_draw: FrozenDraw = "gaussian"
    projected: bool = False
    rounds: int | None = None
    steps_per_round: int | None = None
    epochs_per_round: float | None = None
    ranks: list[int] | None = None
    reset_optimizer: bool = True
    reset_head: bool = False
    lr_policy: Literal["global", "restart", "rewarm"] = "global"
    rewarm_steps: int = 0
    mode: Literal["history", "fold", "recompress"] = "history"
    rank_cap: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slots()  # the chain checks its fields

    def slots(self) -> Slots:
        """Stacked factors, and the chain around the steps."""
        return Slots(
            layer=StackedLoRA(),
            procedure=Chain.from_fields(self, default_rounds=10),
            export=Export("LoRA adapter of rank <= r T"),
        )
