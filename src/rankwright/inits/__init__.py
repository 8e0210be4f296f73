"""Where the factors start."""

from rankwright.inits.companion import Companion
from rankwright.inits.olora import Olora
from rankwright.inits.orthonormal import Orthonormal
from rankwright.inits.pissa import Pissa
from rankwright.inits.random_factors import RandomFactors

__all__ = ["Companion", "Olora", "Orthonormal", "Pissa", "RandomFactors"]
