"""Layers whose factors are a frozen history and a live pair, stacked along the rank."""

from rankwright.layers.stacked.layer import StackedLoRA

__all__ = ["StackedLoRA"]
