"""Changes of the magnitude and direction of weights in training (arXiv 2402.09353, section 3)."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rankwright.algebra.precision import compute_dtype


class WeightDecomposition(NamedTuple):
    """Changes of magnitudes and directions in training, and the relation between the two.

    The trend is taken over all points (module, checkpoint). `slope` is in units of the weight norm
    per unit of `1 - cos`: it depends on the scale of the weights and is not a correlation, although
    it has been published under that name. Read all four figures together: a single outlier can
    determine the slope.

    Attributes:
        modules: Module names, in the order of the rows of `magnitude` and `direction`.
        magnitude: `magnitude_change`, `(modules, checkpoints)`.
        direction: `direction_change`, `(modules, checkpoints)`.
        slope: Least-squares slope of `magnitude` on `direction`; NaN if that is constant.
        intercept: Intercept of that least-squares line.
        pearson: Pearson correlation; NaN if either is constant.
        spearman: Spearman's rank correlation, ties at their mean rank.
    """

    modules: tuple[str, ...]
    magnitude: Tensor
    direction: Tensor
    slope: float
    intercept: float
    pearson: float
    spearman: float


def magnitude_change(W_0: Tensor, W_t: Tensor) -> Tensor:
    """Return `mean_i abs(|W_t,i| - |W_0,i|)` over the rows.

    Args:
        W_0: Pretrained weight `(d_out, d_in)`.
        W_t: Weight at a checkpoint `(d_out, d_in)`.

    Returns:
        A 0-dim tensor, float32 at least.
    """
    dtype = compute_dtype(W_0, W_t)
    return (_row_norm(W_t.to(dtype)) - _row_norm(W_0.to(dtype))).abs().mean()


def direction_change(W_0: Tensor, W_t: Tensor) -> Tensor:
    """Return `mean_i (1 - cos(W_t,i, W_0,i))` over the rows; a zero row counts as unchanged.

    Args:
        W_0: Pretrained weight `(d_out, d_in)`.
        W_t: Weight at a checkpoint `(d_out, d_in)`.

    Returns:
        A 0-dim tensor, float32 at least.
    """
    dtype = compute_dtype(W_0, W_t)
    W_0, W_t = W_0.to(dtype), W_t.to(dtype)
    norms = _row_norm(W_0) * _row_norm(W_t)
    cos = torch.where(norms > 0, (W_0 * W_t).sum(1) / norms, 1.0)
    return (1 - cos).mean()


def weight_decomposition(
    initial: Mapping[str, Tensor], checkpoints: Sequence[Mapping[str, Tensor]]
) -> WeightDecomposition:
    """Analyse how a training run changed the magnitudes and directions of weights.

    Source: arXiv 2402.09353, section 3 and figure 2, here with one row per output channel; arXiv
    2410.09758 reports the slope.

    Args:
        initial: Pretrained weights `(d_out, d_in)` by module name.
        checkpoints: Effective weights of the same modules, one mapping per checkpoint.

    Returns:
        The changes per module and checkpoint, with their trend.

    Raises:
        ValueError: If there are fewer than two points, or a checkpoint has different modules.
    """
    for t, weights in enumerate(checkpoints):
        if weights.keys() != initial.keys():
            odd = ", ".join(sorted(weights.keys() ^ initial.keys()))
            raise ValueError(f"checkpoint {t} and the initial weights differ in modules: {odd}")
    if len(initial) * len(checkpoints) < 2:
        raise ValueError("a trend needs at least two points (modules times checkpoints)")
    magnitude = _table(magnitude_change, initial, checkpoints)
    direction = _table(direction_change, initial, checkpoints)
    x, y = direction.flatten(), magnitude.flatten()
    slope = _ratio(_covariance(x, y), _covariance(x, x))
    return WeightDecomposition(
        modules=tuple(initial),
        magnitude=magnitude,
        direction=direction,
        slope=slope,
        intercept=float(y.mean()) - slope * float(x.mean()),
        pearson=_correlation(x, y),
        spearman=_correlation(_ranks(x), _ranks(y)),
    )


def _table(
    change: Callable[[Tensor, Tensor], Tensor],
    initial: Mapping[str, Tensor],
    checkpoints: Sequence[Mapping[str, Tensor]],
) -> Tensor:
    """Compute `change` of every module (row) at every checkpoint (column); float64 on the CPU."""
    rows = [[float(change(W_0, c[name])) for c in checkpoints] for name, W_0 in initial.items()]
    return torch.tensor(rows, dtype=torch.float64)


def _row_norm(W: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(W, dim=1)
    return norm


def _covariance(x: Tensor, y: Tensor) -> float:
    return float(((x - x.mean()) * (y - y.mean())).mean())


def _correlation(x: Tensor, y: Tensor) -> float:
    return _ratio(_covariance(x, y), (_covariance(x, x) * _covariance(y, y)) ** 0.5)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")


def _ranks(x: Tensor) -> Tensor:
    """Return ranks from 1; equal values get the mean of their ranks."""
    _, group, size = torch.unique(x, return_inverse=True, return_counts=True)
    mean_rank: Tensor = size.cumsum(0) - (size - 1) / 2
    return mean_rank[group].to(x.dtype)
