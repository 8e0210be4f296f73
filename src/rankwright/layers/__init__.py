"""How an adapted layer computes."""

from rankwright.layers.dora import (
    Dora,
    FactoredDora,
    frozen_norms,
    reset_magnitudes,
    use_factored_dora,
)
from rankwright.layers.frozen import FrozenA
from rankwright.layers.gated import GatedLoRA
from rankwright.layers.stacked.layer import StackedLoRA
from rankwright.peft_layers.weight_view import effective_weight

__all__ = [
    "Dora",
    "FactoredDora",
    "FrozenA",
    "GatedLoRA",
    "StackedLoRA",
    "effective_weight",
    "frozen_norms",
    "reset_magnitudes",
    "use_factored_dora",
]
