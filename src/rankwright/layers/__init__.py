"""How an adapted layer computes."""

from rankwright.core.decomposition import effective_weight
from rankwright.layers.dora import (
    Dora,
    FactoredDora,
    frozen_norms,
    reset_magnitudes,
    use_factored_dora,
)

__all__ = [
    "Dora",
    "FactoredDora",
    "effective_weight",
    "frozen_norms",
    "reset_magnitudes",
    "use_factored_dora",
]
