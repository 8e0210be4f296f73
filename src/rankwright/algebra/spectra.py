"""Batches of small symmetric positive semi-definite matrices: Gram matrices of the factors.

One eigendecomposition `S = U diag(l) U^T` of each serves its inverse and a Sylvester equation
between two. `eigh` works in float64, since a Gram matrix has the squared condition number of its
factor; all here is `r x r`, so that costs nothing beside one product with a factor.
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
    """Eigendecomposition of symmetric positive semi-definite matrices, in float64.

    Args:
        S: `(..., r, r)`; an eigenvalue that rounding made negative becomes 0.
    """
    values, vectors = torch.linalg.eigh(S.double())
    return Spectrum(values.clamp(min=0), vectors)


def ridged_inverse(
    of: Spectrum, delta: Tensor | float, rounding: float = torch.finfo(torch.float64).eps
) -> Tensor:
    """`(S + delta I)^-1`, but 0 where it is rounding; with `delta = 0` the pseudo-inverse of `S`.

    Args:
        of: Spectrum of `S` `(..., r, r)`.
        delta: Ridge, of at least 0; a tensor has shape `(..., 1)`.
        rounding: Rounding unit u of the arithmetic that made `S`. Eigenvalues of `S + delta I` up
            to `r u` times the largest are rounding.

    Returns:
        `(..., r, r)`, float64; 0 for a zero matrix without ridge.
    """
    shifted = of.values + delta
    rank = of.values.shape[-1]
    null = shifted <= rank * rounding * shifted.amax(-1, keepdim=True)
    inverse = torch.where(null, 0.0, 1 / torch.where(null, 1.0, shifted))
    return (of.vectors * inverse[..., None, :]) @ of.vectors.mT


def solve_sylvester(left: Spectrum, right: Spectrum, C: Tensor) -> Tensor:
    """The `X` with `L X + X R = C`, for symmetric positive semi-definite `L` and `R`.

    `X = U [(U^T C V)_ij / (l_i + m_j)] V^T` with `L = U diag(l) U^T` and `R = V diag(m) V^T`. Where
    `l_i + m_j = 0` the equation says nothing of `X_ij`, and 0 is taken.

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
