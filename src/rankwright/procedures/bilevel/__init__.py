"""Two levels: some parameters are learned on held-out rows, the others on the rest."""

from rankwright.procedures.bilevel.bilevel import Bilevel

__all__ = ["Bilevel"]
