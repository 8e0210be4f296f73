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
class RACLoRA(Method):
    """A chain of LoRAs with one random factor each; the paper calls a round a link.

    The body of the paper could not be read: "paper" below means its abstract or what its reviews
    quote.

    Attributes:
        lora_alpha: Numerator of s; 8, hence s = 1 with the scaled draw (ours).
        frozen: RAC-LoRA always freezes one: "A" (ours) or "B"; the paper reports both. With "A"
            r * out parameters of a module are trained, with "B" r * in.
        frozen_draw: "gaussian" (paper).
        projected: If True, one SGD step a round is the analysed step of size gamma = lr; False (the
            paper trains with AdamW).
        rounds: T in the paper; RAC-LoRA's own number is 10 (paper, on GLUE).
        reset_optimizer: True (paper).
    """

    name: ClassVar[str] = "rac_lora"
    summary: ClassVar[str] = "a chain of LoRAs with one factor drawn and frozen, the other trained"
    reference: ClassVar[str] = "Malinovsky et al., arXiv 2410.08305"
    cost: ClassVar[str] = (
        "1 pass per step; trains r out (or r in) parameters per module, stores the factors "
        "of T links"
    )

    space: ClassVar[SearchSpace] = {
        **LOW_RANK,
        "frozen": OneOf(("A", "B")),
        "rounds": OneOf((2, 5, 10)),
    }

    lora_alpha: float = 8.0
    frozen: Side = from_part(Chain, default="A")
    frozen_draw: FrozenDraw = from_part(Chain)
    projected: bool = from_part(Chain)
    rounds: int | None = from_part(Chain)
    steps_per_round: int | None = from_part(Chain)
    epochs_per_round: float | None = from_part(Chain)
    ranks: list[int] | None = from_part(Chain)
    reset_optimizer: bool = from_part(Chain)
    reset_head: bool = from_part(Chain)
    lr_policy: LrPolicy = from_part(Chain)
    rewarm_steps: int = from_part(Chain)
    mode: Literal["history", "fold", "recompress"] = from_part(Chain)
    rank_cap: int = from_part(Chain)

    def slots(self) -> Slots:
        """Stacked factors, and the chain around the steps."""
        return Slots(
            layer=StackedLoRA(),
            procedure=Chain.from_fields(
                self,
                default_rounds=10,
                without=("layers_per_round", "selection", "shrinkage", "least_rank"),
            ),
            export=Export("LoRA adapter of rank <= r T"),
        )
