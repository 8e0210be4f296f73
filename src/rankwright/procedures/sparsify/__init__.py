"""Gated ranks: a proximal step drives gates to zero, the end prunes them."""

from rankwright.procedures.sparsify.sparsify import Sparsify

__all__ = ["Sparsify"]
