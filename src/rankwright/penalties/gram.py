"""BiDoRA's Gram penalty: keep the directions of a layer's output rows orthogonal to each other.

`R = mean over modules of |D D^T - I|_F`, where `D` is `V = W + s B A` with unit rows (arXiv
2410.09758). The diagonal of `D D^T` is 1, so `R` is the norm of the cosines between different rows.
`factored_cosines_sq` computes it from `W W^T`, cached, and rank-r products: `d_out^2 r` operations
and no `d_out x d_out` temporary, instead of `d_out^2 d_in`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor

from rankwright.core.catalogue import part
from rankwright.core.decomposition import (
    base_rows,
    check_layer,
    low_rank_factors,
    weight_version,
)
from rankwright.core.linalg import BaseGram, base_gram, factored_cosines_sq
from rankwright.core.part import Penalty

if TYPE_CHECKING:
    from rankwright.core.run import Run

GramForm = Literal["norm", "squared"]

_base_grams: WeakKeyDictionary[LoraLayer, tuple[object, BaseGram]] = WeakKeyDictionary()


@part("gram")
@dataclass(frozen=True)
class Gram(Penalty):
    """BiDoRA's penalty: output rows that point in orthogonal directions.

    `weight * R`, with `R` from the module docstring; no gradient to `W` or to the magnitudes.

    Attributes:
        weight: Factor of the penalty (the published code uses 1e-5 throughout).
        form: `"norm"` for the Frobenius norm (published code), `"squared"` for its square.
        rows: Number of output rows drawn anew for each module and step, at least 2; None for all.
            The sum over pairs of rows is scaled up to all pairs. All rows need `2 d_out^2` numbers
            a module, cached, twice the weight itself; a subset needs `rows * d_in`, transient.
    """

    weight: float = 1e-5
    form: GramForm = "norm"
    rows: int | None = None

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"Gram.weight={self.weight}: expected 0 or more")
        if self.form not in get_args(GramForm):
            raise ValueError(f"Gram.form={self.form!r}: expected one of {get_args(GramForm)}")
        if self.rows is not None and self.rows < 2:
            raise ValueError(f"Gram.rows={self.rows}: expected at least 2, or None for all rows")

    def __call__(self, run: Run) -> Tensor:
        """The penalty at the current factors.

        Args:
            run: Gives `layers`, `adapter_name`, `step` and `generator`.

        Returns:
            A 0-dim tensor, weight included, float32 at least.

        Raises:
            TypeError: If a layer has no single weight matrix.
            ValueError: If a convolution is one that PEFT's LoRA cannot express.
        """
        terms = [self._of_layer(run, name, layer) for name, layer in run.layers.items()]
        device = terms[0].device
        return self.weight / len(terms) * torch.stack([term.to(device) for term in terms]).sum()

    def _of_layer(self, run: Run, name: str, layer: LoraLayer) -> Tensor:
        check_layer(layer)
        W, (A, B, s) = base_rows(layer), low_rank_factors(layer, run.adapter_name)
        d_out, chosen = len(W), None
        if self.rows is not None and self.rows < d_out:
            drawn = torch.randperm(d_out, generator=run.generator("gram", run.step, name))
            chosen = drawn[: self.rows].to(W.device)
        with torch.autocast(W.device.type, enabled=False):
            if chosen is None:
                base = _base_gram(layer, W)
            else:
                W, B = W[chosen], B[chosen]
                base = base_gram(W)
            total = factored_cosines_sq(W, A, B, s, base)
        drawn_pairs = len(W) * (len(W) - 1)
        scale = d_out * (d_out - 1) / drawn_pairs if drawn_pairs else 0.0
        return scale * total if self.form == "squared" else math.sqrt(scale) * _root(total)


def _root(total: Tensor) -> Tensor:
    """Square root with value and gradient 0 where rounding leaves nothing above 0."""
    positive = total > 0
    return torch.where(positive, torch.where(positive, total, 1.0).sqrt(), 0.0)


def _base_gram(layer: LoraLayer, W: Tensor) -> BaseGram:
    """`base_gram(W)`, computed once as long as the base weight stands."""
    version, cached = weight_version(layer), _base_grams.get(layer)
    if cached is None or cached[0] != version or version is None:
        cached = _base_grams[layer] = (version, base_gram(W))
    return cached[1]
