"""What is added to the loss."""

from rankwright.penalties.gram import Gram

__all__ = ["Gram"]
