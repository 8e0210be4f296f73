"""What happens around the steps."""

from rankwright.procedures.allocate import Allocate
from rankwright.procedures.beam import Beam
from rankwright.procedures.bilevel import Bilevel, GateSearch
from rankwright.procedures.chain.chain import Chain
from rankwright.procedures.perturbation import Perturbation
from rankwright.procedures.sparsify.sparsify import Sparsify

__all__ = ["Allocate", "Beam", "Bilevel", "Chain", "GateSearch", "Perturbation", "Sparsify"]
