"""Cosines between the rows of a weight and its low-rank update."""

from typing import NamedTuple

import torch
from torch import Tensor

from rankwright.algebra.block_products import matmul_rows
from rankwright.algebra.precision import compute_dtype


def row_gram(W: Tensor) -> Tensor:
    """Return the products of all pairs of rows, `W W^T`.

    Args:
        W: Matrix `(out_features, in_features)` of any floating-point dtype.

    Returns:
        `(out_features, out_features)`, float32 at least.
    """
    W = W.to(compute_dtype(W))
    return W @ W.T


class BaseGram(NamedTuple):
    """The products of all pairs of rows of a frozen weight, as `factored_cosines_sq` uses them.

    Attributes:
        diagonal: `|W_i|^2`, `(out_features,)`.
        off: `W W^T` with diagonal 0, `(out_features, out_features)`.
        off_sq: `off` squared entry by entry.
    """

    diagonal: Tensor
    off: Tensor
    off_sq: Tensor


def base_gram(W: Tensor) -> BaseGram:
    """Compute the constant part of `factored_cosines_sq`, once, in `out^2 in` operations."""
    gram = row_gram(W)
    diagonal = gram.diagonal().clone()
    gram.fill_diagonal_(0)
    return BaseGram(diagonal, gram, gram.square())


def factored_cosines_sq(W: Tensor, A: Tensor, B: Tensor, s: float, base: BaseGram) -> Tensor:
    r"""Return the sum of squared cosines over ordered pairs of different rows of `V = W + s B A`.

    `V V^T = G + C` with `G = W W^T` constant and `C = H B^T + B H^T`, `H = s W A^T + s^2/2 B A A^T`
    `(out, r)`. With `w_i = 1 / |V_i|^2` the sum over `i != j` of `w_i w_j (G + C)_ij^2` falls into
    three parts that need no `out x out` temporary:

        w^T (G o G) w  +  4 tr((w H)^T G (w B))  +  sum w_i w_j C_ij^2,

    the first two without the diagonal of `G`, the last from `2r x 2r` products less its diagonal.
    Differentiable in `A` and `B`; `W` gets no gradient.

    Args:
        W: Frozen weight `(out_features, in_features)`.
        A: Factor `(r, in_features)`.
        B: Factor `(out_features, r)`.
        s: Scaling of the product.
        base: `base_gram(W)`; constant while `W` is.

    Returns:
        A 0-dim tensor, float64 if any input is, else float32. A zero row has no cosine.
    """
    dtype = compute_dtype(W, A, B, base.off)
    A, B, base = A.to(dtype), B.to(dtype), BaseGram(*(part.to(dtype) for part in base))
    H = s * matmul_rows(W.detach(), A) + s * s / 2 * (B @ (A @ A.T))
    c_diagonal = 2 * (H * B).sum(1)
    n_sq = base.diagonal + c_diagonal
    w = torch.where(n_sq > 0, 1 / torch.where(n_sq > 0, n_sq, 1.0), 0.0)
    wH, wB = w[:, None] * H, w[:, None] * B
    constant = (w * (base.off_sq @ w)).sum()
    mixed = 4 * (wH * (base.off @ wB)).sum()
    left, right = torch.cat([H, B], 1), torch.cat([B, H], 1)  # C = left right^T
    moved = ((left.T @ (w[:, None] * left)) * (right.T @ (w[:, None] * right))).sum()
    total: Tensor = constant + mixed + moved - (w * c_diagonal).square().sum()
    return total
