"""LoRA-FA: LoRA whose A stays as it was drawn, so that no layer's input waits for the backward.

Zhang et al., "LoRA-FA: Memory-efficient Low-rank Adaptation for Large Language Models Fine-tuning",
arXiv 2308.03303.

    W = W0 + s B A,    A (r, in) frozen,    B (out, r) trained from 0

With G = dL/dW, hB = dL/dB = s G A^T. The direction of B that moves W closest along G is

    gB = s^-2 hB (A A^T)^-1,    s gB A = G P_A,    P_A = A^T (A A^T)^-1 A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.search_space import LOW_RANK, OneOf, SearchSpace
from rankwright.core.slots import Slots
from rankwright.layers import FrozenA
from rankwright.optimizers import LoraFa


@register_method
@dataclass(frozen=True, kw_only=True)
class LoRAFA(Method):
    """LoRA with A frozen.

    Attributes:
        projected: Step along gB (PEFT's implementation), or along hB: AdamW on B as it is.
    """

    name: ClassVar[str] = "lora_fa"
    summary: ClassVar[str] = "LoRA with A frozen: half of the parameters, less memory"
    reference: ClassVar[str] = "Zhang et al., arXiv 2308.03303"
    cost: ClassVar[str] = "1 pass per step; trains r out parameters per layer, stores r (in + out)"
    space: ClassVar[SearchSpace] = {**LOW_RANK, "projected": OneOf((True, False))}

    projected: bool = True
    delta: float = from_part(LoraFa)

    def slots(self) -> Slots:
        """A frozen, and the gradient of B; the rest is LoRA's."""
        optimizer = LoraFa.from_fields(self)
        return Slots(layer=FrozenA(), optimizer=optimizer if self.projected else None)
