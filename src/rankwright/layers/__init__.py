"""How an adapted layer computes."""

from rankwright.core.matrix import effective_weight
from rankwright.layers.dora import (
    Dora,
    FactoredDora,
    frozen_norms,
    reset_magnitudes,
    use_factored_dora,
)
from rankwright.layers.frozen import FrozenA
from rankwright.layers.gated import GatedLoRA
from rankwright.layers.stacked import StackedLoRA

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
