"""Weighted means of logged quantities over the micro-batches of an optimizer step."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class StepMeans:
    """Means over the micro-batches of a step, on one process.

    Attributes:
        weight: Weight of the current micro-batch: its number of targets.
    """

    weight: float = 1.0
    _values: dict[str, list[tuple[Tensor, float]]] = field(default_factory=dict)

    def add(self, name: str, value: Tensor) -> None:
        """Add the value for the current micro-batch; 0-dim."""
        self._values.setdefault(name, []).append((value.detach(), self.weight))

    def take(self) -> dict[str, float]:
        """Return the means by name, and forget all values."""
        values, self._values = self._values, {}
        return {name: _weighted_mean(pairs) for name, pairs in values.items()}


def _weighted_mean(pairs: list[tuple[Tensor, float]]) -> float:
    """Weighted mean; 0 if all weights are 0."""
    total = sum(weight for _, weight in pairs)
    return sum(float(value) * weight for value, weight in pairs if weight) / (total or 1.0)
