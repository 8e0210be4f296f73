"""Ranks that are divided among the layers while they train."""

from rankwright.procedures.allocate.allocate import Allocate

__all__ = ["Allocate"]
