"""What is added to the loss."""

from rankwright.penalties.gram import Gram
from rankwright.penalties.l1 import L1
from rankwright.penalties.near_binary import NearBinary
from rankwright.penalties.orthogonality import Orthogonality
from rankwright.penalties.outputs import Outputs
from rankwright.penalties.variance import Variance

__all__ = ["L1", "Gram", "NearBinary", "Orthogonality", "Outputs", "Variance"]
