"""Batches of small symmetric positive semi-definite matrices: Gram matrices of the factors.

One eigendecomposition `S = U diag(l) U^T` of each gives its inverse and the solution of a Sylvester
equation between two. `eigh` works in float64, because a Gram matrix has the squared condition
number of its factor; all matrices here are `r x r`, so the cost is negligible beside one product
with a factor.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Spectrum(NamedTuple):
    """Eigenvalues and eigenvectors of a batch of positive semi-definite matrices.

    Attributes:
        values: `(..., r)`, ascending, none below 0.
        vectors: `(..., r, r)`, orthonormal columns.
    """

    values: Tensor
    vectors: Tensor


def spectrum(S: Tensor) -> Spectrum:
    """Return the eigendecomposition of symmetric positive semi-definite matrices, in float64.

    Args:
        S: `(..., r, r)`; an eigenvalue that rounding made negative becomes 0.
    """
    values, vectors = torch.linalg.eigh(S.double())
    return Spectrum(values.clamp(min=0), vectors)


def ridged_inverse(
    of: Spectrum, delta: Tensor | float, rounding: float = torch.finfo(torch.float64).eps
) -> Tensor:
    """Return `(S + delta I)^-1`, with the inverse of eigenvalues that are rounding errors set to 0.

    With `delta = 0` this is the pseudo-inverse of `S`.

    Args:
        of: Spectrum of `S` `(..., r, r)`.
        delta: Ridge, at least 0; a tensor has shape `(..., 1)`.
        rounding: Rounding unit u of the arithmetic that computed `S`. Eigenvalues of `S + delta I`
            up to `r u` times the largest count as rounding errors.

    Returns:
        `(..., r, r)`, float64; 0 for a zero matrix without ridge.
    """
    shifted = of.values + delta
    rank = of.values.shape[-1]
    null = shifted <= rank * rounding * shifted.amax(-1, keepdim=True)
    inverse = torch.where(null, 0.0, 1 / torch.where(null, 1.0, shifted))
    return (of.vectors * inverse[..., None, :]) @ of.vectors.mT


def solve_sylvester(left: Spectrum, right: Spectrum, C: Tensor) -> Tensor:
    """Solve `L X + X R = C` for X, with symmetric positive semi-definite `L` and `R`.

    `X = U [(U^T C V)_ij / (l_i + m_j)] V^T` with `L = U diag(l) U^T` and `R = V diag(m) V^T`. Where
    `l_i + m_j = 0` the equation leaves that entry of `U^T X V` open, and it is set to 0.

    Args:
        left: Spectrum of `L` `(..., r, r)`.
        right: Spectrum of `R` `(..., r, r)`.
        C: `(..., r, r)`.

    Returns:
        `(..., r, r)`, float64.
    """
    U, V = left.vectors, right.vectors
    sums = left.values[..., :, None] + right.values[..., None, :]
    rotated = U.mT @ C.double() @ V
    return U @ torch.where(sums > 0, rotated / torch.where(sums > 0, sums, 1.0), 0.0) @ V.mT
