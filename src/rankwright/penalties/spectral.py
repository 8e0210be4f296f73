"""How much of a matrix its leading singular values hold, with a gradient in closed form.

    ratio = sum_(i <= k) sigma_i / N,      N = |Z|_F  or  N = sum_j sigma_j,      Z (rows, columns)

With the smaller Gram matrix Z Z^T = U diag(sigma^2) U^T (or Z^T Z) every gradient in question is
U diag(c) U^T Z (or Z U diag(c) U^T):

    d sum_(i <= k) sigma_i / dZ = U_k diag(1 / sigma) U_k^T Z,    d |Z|_F / dZ = Z / |Z|_F,
    d sum_j sigma_j / dZ = U diag(1 / sigma) U^T Z

so no singular value decomposition is computed or differentiated. Where only the leading ones are
asked for and the Gram matrix is large, they come from a subspace iteration on it. At a tie
sigma_k = sigma_(k+1) the gradient is one of the subgradients, as any choice is.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from rankwright.core.linalg import no_autocast

Norm = Literal["frobenius", "nuclear"]

EXACT_UP_TO = 256
"""Rows of a Gram matrix up to which all its eigenvalues are computed: a millisecond or ten."""

ITERATIONS = 12
"""Of the subspace iteration; the error falls with (sigma_(q+1) / sigma_k)^(4 iterations)."""


def spectral_ratio(Z: Tensor, k: int, norm: Norm) -> Tensor:
    """The ratio of the module docstring.

    Args:
        Z: (rows, columns), not empty, float32 or float64.
        k: How many singular values count as leading, at least 1.
        norm: N; "nuclear" needs all singular values.

    Returns:
        0-dimensional; at most 1 for "nuclear" and sqrt(k) for "frobenius", 0 for a zero matrix.
    """
    return cast(Tensor, _SpectralRatio.apply(Z, k, norm))  # type: ignore[no-untyped-call]


class _SpectralRatio(Function):
    @staticmethod
    def forward(ctx: Any, Z: Tensor, k: int, norm: Norm) -> Tensor:
        wide = Z.shape[0] <= Z.shape[1]
        with no_autocast(Z):
            gram = Z @ Z.T if wide else Z.T @ Z
        squares, U = (_all if norm == "nuclear" else _leading)(gram, k)
        tiny = len(gram) * torch.finfo(gram.dtype).eps * squares[0]
        there = squares > tiny  # the others are rounding of zero, and have no direction
        sigma = torch.where(there, squares, 0.0).sqrt()
        inverse = torch.where(there, 1 / sigma, 0.0)
        top = sigma[:k].sum()
        N = gram.trace().sqrt() if norm == "frobenius" else sigma.sum()
        N = torch.where(N > 0, N, 1.0)
        leading = torch.arange(len(sigma), device=Z.device) < k
        ctx.save_for_backward(Z, U, inverse, leading, top, N)
        ctx.wide, ctx.norm = wide, norm
        return top / N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        Z, U, inverse, leading, top, N = ctx.saved_tensors
        c = leading * inverse / N
        if ctx.norm == "nuclear":
            c = c - top / N**2 * inverse
        with no_autocast(Z):
            d = (U * c) @ (U.T @ Z) if ctx.wide else ((Z @ U) * c) @ U.T
        if ctx.norm == "frobenius":
            d -= top / N**3 * Z
        return grad * d, None, None


def _all(gram: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All eigenvalues (n,), the largest first, and eigenvectors (n, n)."""
    del k
    values, vectors = torch.linalg.eigh(gram)
    return values.flip(0), vectors.flip(1)


def _leading(gram: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues or more, the largest first, and their vectors (n, q)."""
    n, q = len(gram), 2 * k + 10
    if n <= max(EXACT_UP_TO, q):
        return _all(gram, k)
    start = torch.randn(n, q, generator=torch.Generator().manual_seed(0))
    Q = start.to(gram)
    for _ in range(ITERATIONS):
        Q = torch.linalg.qr(gram @ (gram @ Q)).Q
    values, vectors = torch.linalg.eigh(Q.T @ gram @ Q)
    return values.flip(0), Q @ vectors.flip(1)
