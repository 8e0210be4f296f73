"""How an adapted layer computes."""

from rankwright.core.decomposition import effective_weight
from rankwright.layers.dora import FactoredDora, frozen_norms, reset_magnitudes, use_factored_dora

__all__ = [
    "FactoredDora",
    "effective_weight",
    "frozen_norms",
    "reset_magnitudes",
    "use_factored_dora",
]
