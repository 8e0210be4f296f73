"""OLoRA's start: the QR factors of the weight (arXiv 2406.01775).

With W = Q R, B_0 = Q[:, :r] and A_0 = R[:r]. Q[:, :r] spans the first r columns of W, hence

    B_0 = Q_r  of the thin  W[:, :r] = Q_r R_r,        A_0 = Q_r^T W = [R_r, Q_r^T W[:, r:]],

which costs 2 out r (r + 2 in) operations where the full QR takes some 2 out in^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankwright.core.part_registry import register_part
from rankwright.inits.companion import Companion


@register_part("olora")
@dataclass(frozen=True)
class Olora(Companion):
    """OLoRA (arXiv 2406.01775): B orthonormal, and B A = P W, P onto W's first r columns."""

    def factors(self, W: Tensor, r: int, s: float) -> tuple[Tensor, Tensor]:
        """See `Companion.factors`; the same for every s."""
        del s
        return qr_factors(W, r)


def qr_factors(W: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """`A = Q^T W` and `B = Q`, `Q` an orthonormal basis of the first `r` columns of `W`.

    Where one of these columns is zero, or a combination of those before it to rounding, LAPACK's
    `Q` has an arbitrary direction in its place. `Q` is then made from the `r` columns that a QR
    with column pivoting takes; a deviation from the paper.

    Args:
        W: Weight `(out, in)`, float32 or float64.
        r: Rank, at most the smaller side of `W`.

    Returns:
        `A` `(r, in)`, upper triangular in its first `r` columns unless pivoted, and `B` `(out, r)`.
    """
    Q, R = torch.linalg.qr(W[:, :r])
    if not _independent(R, len(W)):
        Q, _ = torch.linalg.qr(W[:, pivots(W, r)])
        return Q.T @ W, Q
    return torch.cat((R, Q.T @ W[:, r:]), dim=1), Q


def pivots(W: Tensor, r: int) -> Tensor:
    """The `r` columns that a QR with column pivoting takes first, in its order.

    Each is the one that is furthest from the span of those before it.

    Args:
        W: Weight `(out, in)`.
        r: How many.

    Returns:
        Column numbers `(r,)`.
    """
    rest = W.clone()
    taken: list[int] = []
    for _ in range(r):
        lengths = torch.linalg.vector_norm(rest, dim=0)
        lengths[taken] = -1.0  # a column is taken once, however small the others are
        taken.append(int(lengths.argmax()))
        column = rest[:, taken[-1]]
        direction = column / lengths[taken[-1]].clamp_min(torch.finfo(W.dtype).tiny)
        rest -= torch.outer(direction, direction @ rest)
    return torch.tensor(taken, device=W.device)


def _independent(R: Tensor, rows: int) -> bool:
    """Whether no column is, to rounding, a combination of those before it.

    Column i of R has the length of column i of the weight; the last of its numbers, R_ii, is its
    distance from the columns before.
    """
    tolerance = rows * torch.finfo(R.dtype).eps
    lengths = torch.linalg.vector_norm(R, dim=0)
    return bool((R.diagonal().abs() > tolerance * lengths).all())
