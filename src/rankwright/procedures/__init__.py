"""What happens around the steps."""

from rankwright.procedures.bilevel import Bilevel
from rankwright.procedures.chain import Chain
from rankwright.procedures.perturbation import Perturbation

__all__ = ["Bilevel", "Chain", "Perturbation"]
