"""Two levels: some parameters are learned on held-out rows, the others on the rest."""

from rankwright.procedures.bilevel.bilevel import Bilevel
from rankwright.procedures.bilevel.gate_search import GateSearch

__all__ = ["Bilevel", "GateSearch"]
