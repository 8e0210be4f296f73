"""What happens around the steps."""

from rankwright.procedures.bilevel import Bilevel
from rankwright.procedures.chain import Chain
from rankwright.procedures.perturbation import Perturbation
from rankwright.procedures.sparsify import Sparsify

__all__ = ["Bilevel", "Chain", "Perturbation", "Sparsify"]
