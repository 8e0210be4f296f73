"""The result of an export: what was written, and how far it is from the model in hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from rankwright.core.export import EXACT, Form, FormName


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from the model in hand.

    Attributes:
        kind: "adapter", "lora" or "merged".
        path: The folder.
        rank: Largest rank in the adapter file; None for a merged model.
        relative_error: `|dW - dW_written|_F / |dW|_F` over all adapted layers together, where `dW`
            is the change that the adapter makes; for a merged model, the loss by rounding to the
            base dtype. NaN if the adapter is no change of weights.
        layer_errors: The same for each adapted layer, by name.
        logit_difference: Largest absolute difference of a logit on the probe, after loading.
        largest_logit: Largest absolute logit on the probe, for scale.
        size_bytes: Size of all files.
        form: Whether what was written is exact, and if not, the reason.
    """

    kind: FormName
    path: Path
    rank: int | None
    relative_error: float
    layer_errors: Mapping[str, float]
    logit_difference: float
    largest_logit: float
    size_bytes: int
    form: Form = EXACT

    def rows(self) -> list[tuple[str, str]]:
        """Return (label, text) for each row of a table."""
        rows = [("export", self.kind), ("written to", str(self.path))]
        if self.form.reason:
            rows.append((self.form.accuracy, self.form.reason))
        if self.rank is not None:
            rows.append(("rank", str(self.rank)))
        unknown = math.isnan(self.relative_error)
        error = "not defined" if unknown else f"{self.relative_error:.2e}"
        rows.append(("relative error of the change", error))
        if self.relative_error and self.layer_errors:
            worst = max(self.layer_errors, key=lambda name: self.layer_errors[name])
            rows.append(("worst layer", f"{self.layer_errors[worst]:.2e}  {worst}"))
        return [
            *rows,
            ("largest logit difference", f"{self.logit_difference:.2e}"),
            ("largest logit", f"{self.largest_logit:.2e}"),
            ("size", f"{self.size_bytes:,} bytes"),
        ]

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(label) for label, _ in rows)
        return "\n".join(f"{label:<{width}}  {text}" for label, text in rows)


@dataclass
class WeightErrors:
    """Errors of the written weight changes, by layer.

    Attributes:
        missing: Squared Frobenius norm of the part of each change that was not written.
        change: Squared Frobenius norm of each change.
        known: Whether the adapter is a change of weights, whose errors can be measured.
    """

    missing: dict[str, float] = field(default_factory=dict)
    change: dict[str, float] = field(default_factory=dict)
    known: bool = True

    @classmethod
    def zero(cls, layers: Iterable[str]) -> WeightErrors:
        """Return the errors of an export that keeps every factor."""
        layers = list(layers)
        return cls(dict.fromkeys(layers, 0.0), dict.fromkeys(layers, 1.0))

    def add(self, name: str, change: Tensor, written: Tensor) -> None:
        """Add a layer: the change of its weight and what was written of it; both (d_out, d_in)."""
        self.change[name] = float(change.square().sum())
        self.missing[name] = float((change - written).square().sum())

    @property
    def by_layer(self) -> dict[str, float]:
        """Relative error of each layer, by name."""
        return {name: _ratio(self.missing[name], change) for name, change in self.change.items()}

    @property
    def total(self) -> float:
        """Relative error of all layers together; NaN if it is not defined."""
        if not self.known:
            return math.nan
        return _ratio(sum(self.missing.values()), sum(self.change.values()))


def _ratio(missing: float, change: float) -> float:
    if not change:
        return math.inf if missing else 0.0
    return math.sqrt(missing / change)
