"""LoRA+: LoRA whose B learns at a higher rate than A.

Hayou, Ghosh, Yu, "LoRA+: Efficient Low Rank Adaptation of Large Models", ICML 2024,
arXiv 2402.12354.

    W = W0 + s B A,    lr_B = lr_ratio * lr_A

A (r, in) sums over inputs and B (out, r) starts at zero. For features to change at a rate that does
not depend on the width of the layer, lr_A has to fall with the width and lr_B has not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.search_space import LOW_RANK, LogRange, SearchSpace
from rankwright.core.slots import Slots
from rankwright.optimizers import LoraPlus


@register_method
@dataclass(frozen=True, kw_only=True)
class LoRAPlus(Method):
    """LoRA with two learning rates.

    The learning rate of the run is A's. Take about half of LoRA's.
    """

    name: ClassVar[str] = "lora_plus"
    summary: ClassVar[str] = "LoRA whose B learns at a higher rate than A"
    reference: ClassVar[str] = "Hayou, Ghosh, Yu, ICML 2024, arXiv 2402.12354"
    cost: ClassVar[str] = "1 pass per step; r (in + out) parameters per layer"
    space: ClassVar[SearchSpace] = {**LOW_RANK, "lr_ratio": LogRange(2.0, 32.0)}

    lr_ratio: float = from_part(LoraPlus)

    def slots(self) -> Slots:
        """The two rates; the rest is LoRA's."""
        return Slots(optimizer=LoraPlus.from_fields(self))
