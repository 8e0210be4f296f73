"""How much of a matrix its leading singular values hold, with a gradient in closed form.

    ratio = sum_(i <= k) sigma_i / N,      N = |Z|_F  or  N = sum_j sigma_j,      Z (rows, columns)

With Z = U diag(sigma) V^T every gradient in question is U diag(c) U^T Z (or Z V diag(c) V^T):

    d sum_(i <= k) sigma_i / dZ = U_k diag(1 / sigma) U_k^T Z,    d |Z|_F / dZ = Z / |Z|_F,
    d sum_j sigma_j / dZ = U diag(1 / sigma) U^T Z

so the singular value decomposition of Z is neither differentiated nor computed: sigma and the
shorter of U and V come from the triangular factor R of Z^T = Q R (for a wide Z), computed in
float64 from blocks of Z. At a tie sigma_k = sigma_(k+1) the gradient is one of the subgradients.

Limits: singular values below 2e-16 n sigma_1 count as zero, n being the shorter side of Z. With the
Frobenius norm and more than `EXACT_UP_TO` rows and columns, the leading singular values come from a
subspace iteration on Z Z^T in float64. Squaring limits them: the relative error of a leading
sigma_i is about 1e-16 (sigma_1 / sigma_i)^2, and those below 2e-8 sqrt(n) sigma_1 count as zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from rankwright.algebra.precision import no_autocast

Norm = Literal["frobenius", "nuclear"]

EXACT_UP_TO = 256
"""Length of the shorter side up to which the Frobenius norm uses the QR factorisation, too."""

ITERATIONS = 12
"""Of the subspace iteration; the error falls with (sigma_(q+1) / sigma_k)^(4 iterations)."""

BLOCK = 1 << 20
"""Elements of Z that are converted to float64 at a time (8 MiB); more if needed for a block of four
times as many columns as rows."""


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
        M = Z if wide else Z.T
        squared = norm == "frobenius" and len(M) > max(EXACT_UP_TO, 2 * k + 10)
        with no_autocast(Z):
            sigma, U = _leading(M, k) if squared else _all(M)
        there = sigma > len(M) * torch.finfo(sigma.dtype).eps * sigma[0]
        inverse = torch.where(there, 1 / sigma, 0.0)  # a zero has no direction
        top = sigma[:k].sum()
        N = torch.linalg.vector_norm(M, dtype=U.dtype) if norm == "frobenius" else sigma.sum()
        N = torch.where(N > 0, N, 1.0)
        ctx.save_for_backward(Z, U, inverse, top, N)
        ctx.k, ctx.wide, ctx.norm = k, wide, norm
        return (top / N).to(Z.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        Z, U, inverse, top, N = ctx.saved_tensors
        c = inverse[: ctx.k] / N
        if ctx.norm == "nuclear":
            c = -top / N**2 * inverse
            c[: ctx.k] += inverse[: ctx.k] / N
        U = U[:, : len(c)]
        M = Z if ctx.wide else Z.T
        d = torch.empty_like(M)
        with no_autocast(Z):
            for part, block in zip(_blocks(d), _blocks(M), strict=True):
                part.copy_(torch.linalg.multi_dot((U * c, U.T, block.to(U.dtype))))
        if ctx.norm == "frobenius":
            d -= (top / N**3).to(Z.dtype) * M
        return grad * (d if ctx.wide else d.T), None, None


def _blocks(M: Tensor) -> Iterator[Tensor]:
    """Split M (n, columns) into blocks of columns."""
    yield from torch.split(M, max(4 * len(M), BLOCK // len(M)), dim=1)


def _all(M: Tensor) -> tuple[Tensor, Tensor]:
    """All singular values (n,) of M (n, columns), n <= columns, and left vectors U (n, n)."""
    R = M.new_empty(0, len(M), dtype=torch.float64)
    for block in _blocks(M):
        R = torch.linalg.qr(torch.cat((R, block.T.double())), mode="r").R
    U, sigma, _ = torch.linalg.svd(R.T)
    return sigma, U


def _leading(M: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """At least the k largest singular values (q,) of M (n, columns), and left vectors (n, q)."""
    gram = M.new_zeros(len(M), len(M), dtype=torch.float64)
    for block in _blocks(M):
        gram += block.double() @ block.T.double()
    start = torch.randn(len(M), 2 * k + 10, generator=torch.Generator().manual_seed(0))
    Q = start.to(gram)
    for _ in range(ITERATIONS):
        Q = torch.linalg.qr(gram @ (gram @ Q)).Q
    squares, vectors = torch.linalg.eigh(Q.T @ gram @ Q)
    squares = squares.flip(0)
    rounding = len(M) * torch.finfo(squares.dtype).eps * squares[0]
    return torch.where(squares > rounding, squares, 0.0).sqrt(), Q @ vectors.flip(1)
