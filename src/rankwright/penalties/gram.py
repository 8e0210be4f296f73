"""BiDoRA's Gram penalty: keep the directions of a layer's output rows orthogonal to each other.

`R = mean over modules of |D D^T - I|_F`, where `D` is `V = W + s B A` with unit rows (arXiv
2410.09758). The diagonal of `D D^T` is 1, so `R` is the norm of the cosines between different rows.
All of it is a large part of a step, so a step draws some modules and some of their rows by default:
that estimates the same mean. For all rows, `factored_cosines_sq` takes `W W^T`, cached, and rank-r
products: `d_out^2 r` operations and no `d_out x d_out` temporary, instead of `d_out^2 d_in`. For
drawn rows, which are few, `V` itself is the shorter way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor

from rankwright.algebra.cosines import BaseGram, base_gram, factored_cosines_sq
from rankwright.algebra.precision import compute_dtype, no_autocast, nonzero
from rankwright.core.fields import check_field, none_or_at_least
from rankwright.core.part_registry import register_part
from rankwright.core.slots import Penalty
from rankwright.peft_layers.weight_view import (
    base_rows,
    check_layers,
    low_rank_factors,
    weight_version,
)

if TYPE_CHECKING:
    from rankwright.core.run import Run

GramForm = Literal["norm", "squared"]

_base_grams: WeakKeyDictionary[LoraLayer, tuple[object, BaseGram]] = WeakKeyDictionary()


@register_part("gram")
@dataclass(frozen=True)
class Gram(Penalty):
    """BiDoRA's penalty: output rows that point in orthogonal directions.

    `weight * R`, with `R` from the module docstring; no gradient to `W` or to the magnitudes.

    Attributes:
        weight: Factor gamma of the penalty on the rows' directions; 1e-5 (published), 0 for none.
        form: "norm" for the Frobenius norm (published), "squared" for its square.
        rows: Number of output rows drawn anew for each module and step, at least 2 (ours, for the
            price of a step); None for all (published). The sum over pairs of rows is scaled up to
            all pairs, without bias; the root of it, in the form "norm", has a bias that is small of
            second order. All rows need 2 out^2 numbers a module, cached, twice the weight itself; a
            subset rows * in, transient.
        modules: Number of modules drawn anew for each step, at least 1 (ours); None for all
            (published). The mean over them estimates the mean over all without bias, its gradient
            too.
    """

    weight: float = 1e-5
    form: GramForm = "norm"
    rows: int | None = 128
    modules: int | None = 4

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range.
        """
        forms = " or ".join(get_args(GramForm))
        for name, holds, expected in (
            ("weight", self.weight >= 0, "a number of at least 0"),
            ("form", self.form in get_args(GramForm), forms),
            ("rows", none_or_at_least(self.rows, 2), "at least 2, or None for all rows"),
            ("modules", none_or_at_least(self.modules, 1), "at least 1, or None for all modules"),
        ):
            check_field(self, name, holds, expected)

    def check_run(self, run: Run) -> None:
        """See `Penalty.check_run`.

        Raises:
            MethodError: A layer has no single weight matrix, or is a convolution that PEFT's LoRA
                cannot express.
        """
        if self.weight:
            check_layers(run.layers)

    def __call__(self, run: Run) -> Tensor | None:
        """The penalty at the current factors.

        Args:
            run: Gives `layers`, `adapter_name`, `step` and `generator`.

        Returns:
            A 0-dim tensor, weight included, float32 at least; None where the weight is 0.

        """
        if self.weight == 0:
            return None
        names = list(run.layers)
        chosen = _drawn(run, len(names), self.modules)
        terms = [
            self._of_layer(run, name, run.layers[name])
            for name in (names if chosen is None else [names[i] for i in chosen.tolist()])
        ]
        device = terms[0].device
        return self.weight / len(terms) * torch.stack([term.to(device) for term in terms]).sum()

    def _of_layer(self, run: Run, name: str, layer: LoraLayer) -> Tensor:
        W, (A, B, s) = base_rows(layer), low_rank_factors(layer, run.adapter_name)
        d_out, rows = len(W), _drawn(run, len(W), self.rows, name)
        with no_autocast(W):
            if rows is None:
                total, scale = factored_cosines_sq(W, A, B, s, _base_gram(layer, W)), 1.0
            else:
                rows = rows.to(W.device)
                total = cosines_sq(W[rows], A, B.index_select(0, rows), s)
                scale = d_out * (d_out - 1) / (len(rows) * (len(rows) - 1))
        return scale * total if self.form == "squared" else math.sqrt(scale) * _root(total)


def _drawn(run: Run, total: int, wanted: int | None, *key: object) -> Tensor | None:
    """`wanted` of `total` indices, anew in each step; None for all of them."""
    if wanted is None or wanted >= total:
        return None
    return torch.randperm(total, generator=run.generator("gram", run.step, *key))[:wanted]


def cosines_sq(W: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
    """`algebra.cosines.factored_cosines_sq` from `V = W + s B A` itself: for few rows.

    Args:
        W: Rows of a frozen weight `(rows, in_features)`.
        A: Factor `(r, in_features)`.
        B: The same rows of the other factor, `(rows, r)`.
        s: Scaling of the product.

    Returns:
        A 0-dim tensor, float64 if any input is, else float32. A zero row has no cosine.
    """
    dtype = compute_dtype(W, A, B)
    V = torch.addmm(W.detach().to(dtype), B.to(dtype), A.to(dtype), alpha=s)
    D = V / nonzero(torch.linalg.vector_norm(V, dim=1, keepdim=True))
    cosines: Tensor = (D @ D.T).fill_diagonal_(0)
    return cosines.square().sum()


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
