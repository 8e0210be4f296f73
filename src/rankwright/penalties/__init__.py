"""What is added to the loss."""

from rankwright.penalties.gram import Gram
from rankwright.penalties.l1 import L1

__all__ = ["L1", "Gram"]
