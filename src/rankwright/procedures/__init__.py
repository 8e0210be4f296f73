"""What happens around the steps."""

from rankwright.procedures.bilevel import Bilevel

__all__ = ["Bilevel"]
